"""The conformance kit: drives any provider through the contract of `flowshunt.offload.api`, and says what it breaks.

    >>> from flowshunt.offload.conformance.score import check
    >>> from flowshunt.offload.providers.dummy import Dummy
    >>> check("dummy", Dummy).passed
    True

Each scenario (`scenarios`, `batches`, `framework`, `forwarding`) gets a fresh provider and a deadline. `score` collects
the verdicts, `plugin` shows them as tests of pytest: `pytest -p flowshunt.offload.conformance.plugin --offload-provider
NAME`.

Providers that forward packets are given flows as the framework gives them, on a `stage` whose paths are told by `ways`.
Whether packets pass can be seen of those that have `installing.Inspectable`.
"""
