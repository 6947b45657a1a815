"""What a model server refuses, and why a run is not served."""

from enforcer.problems import Conflict, Invalid, NotFound, Unavailable


class NotAccepted(Conflict):
    """The registry did not say that this run passed, or nobody can show that it did."""

    code, title = "not-accepted", "this run is not accepted"


class NotServable(Invalid):
    """There is no interface, no engine or no manifest in which this run could answer."""

    code, title = "not-servable", "this run cannot be served like this"


class ModelNotServed(NotFound):
    code, title = "model-not-found", "no such model here"


class InputRefused(Invalid):
    """`param` is the member of the body that it is about, as OpenAI's clients expect it."""

    code, title = "input-refused", "the model does not take this"


class Overloaded(Unavailable):
    """More is waiting than may wait. The same request is welcome after `retry_after_s`."""

    code, title = "overloaded", "too much is waiting"
