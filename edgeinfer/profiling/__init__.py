"""Latency as a device really gives it: what is measured, how work arrives, what the machine did meanwhile.

    load -> subject -> scenarios (an issuer lets work arrive) -> samples -> statistics -> report
                       sensors (a thread beside it)           -> validity -^

`measuring.profile` is the whole of it. A number that was not measured is nowhere: what cannot be read is
`None`, beside the reason.
"""
