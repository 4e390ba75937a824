"""Messages of the gRPC services, as tables of the public protocols' names and field numbers.

They are built at run time in a pool of their own, so that they live beside a client's copies in one process and need no
generated code that would tie the service to one release of protobuf.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"  # the Open Inference Protocol
SERVICE = f"{PACKAGE}.GRPCInferenceService"
HEALTH = "grpc.health.v1"
# a message a paragraph; a field is `number name kind`, `*` after a kind repeats it, `map<kind>` is keyed by strings,
# and `|` before a number puts the field into the message's only oneof
TABLE = """
ServerLiveRequest
ServerLiveResponse: 1 live bool
ServerReadyRequest
ServerReadyResponse: 1 ready bool
ModelReadyRequest: 1 name string, 2 version string
ModelReadyResponse: 1 ready bool
ServerMetadataRequest
ServerMetadataResponse: 1 name string, 2 version string, 3 extensions string*
ModelMetadataRequest: 1 name string, 2 version string
TensorMetadata: 1 name string, 2 datatype string, 3 shape int64*
ModelMetadataResponse: 1 name string, 2 versions string*, 3 platform string, 4 inputs TensorMetadata*, 5 outputs
    TensorMetadata*
InferParameter: |1 bool_param bool, |2 int64_param int64, |3 string_param string, |4 double_param double, |5
    uint64_param uint64
InferTensorContents: 1 bool_contents bool*, 2 int_contents int32*, 3 int64_contents int64*, 4 uint_contents uint32*, 5
    uint64_contents uint64*, 6 fp32_contents float*, 7 fp64_contents double*, 8 bytes_contents bytes*
InferInputTensor: 1 name string, 2 datatype string, 3 shape int64*, 4 parameters map<InferParameter>, 5 contents
    InferTensorContents
InferRequestedOutputTensor: 1 name string, 2 parameters map<InferParameter>
ModelInferRequest: 1 model_name string, 2 model_version string, 3 id string, 4 parameters map<InferParameter>, 5
    inputs InferInputTensor*, 6 outputs InferRequestedOutputTensor*, 7 raw_input_contents bytes*
InferOutputTensor: 1 name string, 2 datatype string, 3 shape int64*, 4 parameters map<InferParameter>, 5 contents
    InferTensorContents
ModelInferResponse: 1 model_name string, 2 model_version string, 3 id string, 4 parameters map<InferParameter>, 5
    outputs InferOutputTensor*, 6 raw_output_contents bytes*
ModelStreamInferResponse: 1 error_message string, 2 infer_response ModelInferResponse
ModelConfigRequest: 1 name string, 2 version string
ModelInput: 1 name string, 2 data_type int32, 4 dims int64*, 8 optional bool
ModelOutput: 1 name string, 2 data_type int32, 3 dims int64*
ModelDynamicBatching: 2 max_queue_delay_microseconds uint64
ModelConfig: 1 name string, 2 platform string, 4 max_batch_size int32, 5 input ModelInput*, 6 output ModelOutput*, 11
    dynamic_batching ModelDynamicBatching, 17 backend string
ModelConfigResponse: 1 config ModelConfig
ModelStatisticsRequest: 1 name string, 2 version string
StatisticDuration: 1 count uint64, 2 ns uint64
InferStatistics: 1 success StatisticDuration, 2 fail StatisticDuration, 3 queue StatisticDuration, 4 compute_input
    StatisticDuration, 5 compute_infer StatisticDuration, 6 compute_output StatisticDuration,
    7 cache_hit StatisticDuration, 8 cache_miss StatisticDuration
InferBatchStatistics: 1 batch_size uint64, 2 compute_input StatisticDuration, 3 compute_infer StatisticDuration, 4
    compute_output StatisticDuration
ModelStatistics: 1 name string, 2 version string, 3 last_inference uint64, 4 inference_count uint64, 5 execution_count
    uint64, 6 inference_stats InferStatistics, 7 batch_stats InferBatchStatistics*
ModelStatisticsResponse: 1 model_stats ModelStatistics*
RepositoryIndexRequest: 1 repository_name string, 2 ready bool
ModelIndex: 1 name string, 2 version string, 3 state string, 4 reason string
RepositoryIndexResponse: 1 models ModelIndex*
ModelRepositoryParameter: |1 bool_param bool, |2 int64_param int64, |3 string_param string, |4 bytes_param bytes
RepositoryModelLoadRequest: 1 repository_name string, 2 model_name string, 3 parameters map<ModelRepositoryParameter>
RepositoryModelLoadResponse
RepositoryModelUnloadRequest: 1 repository_name string, 2 model_name string, 3 parameters map<ModelRepositoryParameter>
RepositoryModelUnloadResponse
SystemSharedMemoryStatusRequest: 1 name string
RegionStatus: 1 name string, 2 key string, 3 offset uint64, 4 byte_size uint64
SystemSharedMemoryStatusResponse: 1 regions map<RegionStatus>
SystemSharedMemoryRegisterRequest: 1 name string, 2 key string, 3 offset uint64, 4 byte_size uint64
SystemSharedMemoryRegisterResponse
SystemSharedMemoryUnregisterRequest: 1 name string
SystemSharedMemoryUnregisterResponse
CudaSharedMemoryStatusRequest: 1 name string
CudaSharedMemoryStatusResponse
CudaSharedMemoryRegisterRequest: 1 name string
CudaSharedMemoryRegisterResponse
CudaSharedMemoryUnregisterRequest: 1 name string
CudaSharedMemoryUnregisterResponse
"""
# an enumeration travels as its number
HEALTH_TABLE = """
HealthCheckRequest: 1 service string
HealthCheckResponse: 1 status int32
"""
# numbers of the model configuration's enumeration of types
DATA_TYPES = {"UINT8": 2, "INT8": 6, "INT32": 8, "INT64": 9, "FP16": 10, "FP32": 11, "STRING": 13}

_Field = descriptor_pb2.FieldDescriptorProto
_NAMES = ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
_KINDS = {name: getattr(_Field, f"TYPE_{name.upper()}") for name in _NAMES}


def _file(package: str, table: str) -> bytes:
    file = descriptor_pb2.FileDescriptorProto(name=f"edgeinfer/{package}.proto", package=package, syntax="proto3")
    for line in table.strip().replace("\n    ", " ").splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name.strip())
        for text in fields.split(",") if fields else ():
            _add(package, message, *text.split())
    serialized: bytes = file.SerializeToString()
    return serialized


def _add(package: str, message: Any, number: str, name: str, kind: str) -> None:
    field = message.field.add(name=name, number=int(number.lstrip("|")), label=_Field.LABEL_OPTIONAL)
    if number.startswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0
    if kind.endswith(("*", ">")):
        field.label = _Field.LABEL_REPEATED
    if kind.startswith("map<"):
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add(package, entry, "1", "key", "string")
        _add(package, entry, "2", "value", kind[4:-1])
        kind = f"{message.name}.{entry.name}"
    plain = kind.rstrip("*")
    if plain in _KINDS:
        field.type = _KINDS[plain]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{plain}"


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_file(PACKAGE, TABLE))
_pool.AddSerializedFile(_file(HEALTH, HEALTH_TABLE))


@cache
def message(name: str, package: str = PACKAGE) -> Any:
    """The class of the message called `name`."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{package}.{name}"))
