"""A stand-in for one release of NVIDIA's bindings: exactly its names, and a builder that builds nothing.

Touching a name that the release has not is an AttributeError, as it would be there; calls are counted against
the release's signatures and kept in `calls`.
"""

from __future__ import annotations

import types

from helpers import vendornames

PLAN = b"a plan"


class Member:
    """One value of an enumeration."""

    def __init__(self, name, value):
        self.name, self.value = name, value

    def __int__(self):
        return self.value


class Stand:
    """What every stand-in class is: attributes are those of the release, or an error."""

    release, path, kinds, answers, calls = "", "", {}, {}, []

    def __setattr__(self, name, value):
        if self.kinds.get(name) != "rw":
            raise AttributeError(f"{self.path} of {self.release} has no writable {name}")
        self.calls.append((f"{self.path}.{name}", (self, value)))
        object.__setattr__(self, name, value)

    def __getattr__(self, name):
        if self.kinds.get(name) not in ("rw", "ro"):
            raise AttributeError(f"{self.path} of {self.release} has no {name}")
        answer = self.answers.get(f"{self.path}.{name}")
        return answer(self) if callable(answer) else answer

    def put(self, **facts):
        """Set what the library would have set itself."""
        self.__dict__.update(facts)
        return self


class Fake(types.ModuleType):
    """The module; `calls` holds (name, arguments) in order, and (name, (object, value)) for what is set."""

    def __init__(self, release, answers=()):
        super().__init__("tensorrt_rtx" if release.startswith("rtx") else "tensorrt")
        self.__version__ = release.removeprefix("rtx-")
        self.calls = []
        self._answers = {**_world(self), **dict(answers)}
        inside = vendornames.members(release)
        for path, kinds in inside.items():
            if path:
                self._place(path, self._class(path, release, kinds))
        for name, kind in inside[""].items():
            if kind.startswith("("):
                setattr(self, name, self._call(name, kind))

    def _place(self, path, value):
        owner, _, name = path.rpartition(".")
        setattr(getattr(self, owner) if owner else self, name, value)

    def _class(self, path, release, kinds):
        body = {"release": release, "path": path, "kinds": kinds, "answers": self._answers, "calls": self.calls}
        for name, kind in kinds.items():
            if kind == "=":
                body[name] = Member(name, len(body))
            elif kind.startswith("(") and (name, kind) != ("__init__", "(...)"):
                body[name] = self._call(f"{path}.{name}", kind)
        return type(path.rpartition(".")[2], (Stand,), body)

    def _call(self, path, signature):
        bound = "." in path

        def call(*args):
            own = args[1:] if bound else args
            assert vendornames.takes(signature, len(own)), f"{path}{signature} was given {len(own)} arguments"
            self.calls.append((path, own))
            answer = self._answers.get(path)
            return answer(*args) if callable(answer) else answer

        return call

    def made(self, path):
        """The arguments of every call of this name."""
        return [args for name, args in self.calls if name == path]

    def tensor(self, name, shape, dtype="FLOAT"):
        return self.ITensor().put(name=name, shape=shape, dtype=getattr(self.DataType, dtype))

    def layer(self, name, kind, taken, given, told=False):
        """A layer of the network; `told` when the graph sets its output's type."""
        answers = {
            "type": Member(kind, 0),
            "name": name,
            "num_inputs": len(taken),
            "num_outputs": 1,
            "get_input": lambda place: taken[place],
            "get_output": lambda _: given,
            "output_type_is_set": lambda _: told,
        }
        return self.ILayer().put(**answers)


def _world(trt):
    """How the release answers: a network with a float16 convolution between casts and a float32 sigmoid."""

    def create_network(_builder, *_flags):
        shape = (-1, 3, 32, 32)
        images, half = trt.tensor("images", shape), trt.tensor("half", shape, "HALF")
        conv, back = trt.tensor("conv", shape), trt.tensor("back", shape)
        out = trt.tensor("output0", shape)
        layers = [
            trt.layer("to_half", "IDENTITY", [images], half, told=True),
            trt.layer("conv", "CONVOLUTION", [half, None], conv),
            trt.layer("to_float", "IDENTITY", [conv], back, told=True),
            trt.layer("sigmoid", "ACTIVATION", [back], out),
        ]
        network = trt.INetworkDefinition().put(num_inputs=1, num_outputs=1, num_layers=len(layers))
        return network.put(get_input=lambda _: images, get_output=lambda _: out, get_layer=layers.__getitem__)

    def build(_builder, _network, config):
        monitor = config.__dict__.get("progress_monitor")
        if monitor:
            monitor.phase_start("Building", None, 2)
            if not all(monitor.step_complete("Building", step) for step in range(2)):
                return None
            monitor.phase_finish("Building")
        return PLAN

    def start(builder, logger):
        builder.put(logger=logger)

    return {
        "Builder.__init__": start,
        "Builder.create_builder_config": lambda _: trt.IBuilderConfig(),
        "Builder.create_network": create_network,
        "Builder.create_optimization_profile": lambda _: trt.IOptimizationProfile(),
        "Builder.build_serialized_network": build,
        "Builder.num_DLA_cores": 2,
        "OnnxParser.parse_from_file": True,
        "IBuilderConfig.add_optimization_profile": 0,
        "IBuilderConfig.create_timing_cache": lambda *_: trt.ITimingCache(),
        "IBuilderConfig.set_timing_cache": True,
        "IBuilderConfig.get_timing_cache": lambda _: trt.ITimingCache(),
        "IBuilderConfig.get_tactic_sources": 0xFF,
        "IBuilderConfig.set_tactic_sources": True,
        "IBuilderConfig.set_compute_capability": True,
        "IBuilderConfig.can_run_on_DLA": lambda _, layer: layer.name != "sigmoid",
        "ITimingCache.combine": True,
        "ITimingCache.serialize": lambda _: b"timings",
    }
