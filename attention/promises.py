"""What a class promises about its equation, and what of it a class derived from it promises."""


def promises(kind: type, name: str) -> bool:
    """Whether an attribute of a class is about the equation that the class has.

    It is not where a class has another `__call__` and inherits the attribute from a class before.
    """
    promise, equation = (_owner(kind, each) for each in (name, "__call__"))
    return promise is not None and (equation is None or issubclass(promise, equation))


def _owner(kind: type, name: str) -> type | None:
    return next((base for base in kind.__mro__ if name in vars(base)), None)
