"""What a trial computes, as text, by which a file knows whether it holds the cells of that trial."""

import dis
import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from fastdmf._describe import code_digest, describe


def identity(trial: Callable[..., Any]) -> dict[str, str]:
    """The code of a trial, and the values and functions around it that this code uses, by name.

    Functions of the trial's own module are followed into their code in turn; those of other modules are
    known by name alone, and objects of unknown types by their type.
    """
    found: dict[str, str] = {}
    function = _unwrapped(trial, found)
    if not isinstance(function, FunctionType):
        return {"trial": _known_by_name(function), **found}
    found["trial"] = f"{function.__qualname__} {code_digest(function.__code__)}"
    _follow(function, found)
    return found


def _unwrapped(trial: Any, found: dict[str, str]) -> Any:
    """The function inside a partial, method, wrapper or callable object, whose other parts are noted."""
    while not isinstance(trial, FunctionType):
        if isinstance(trial, functools.partial):
            found["trial's arguments"] = describe((trial.args, trial.keywords), _known_by_name)
            trial = trial.func
        elif isinstance(trial, MethodType):
            found["trial's object"] = describe(trial.__self__, _known_by_name)
            trial = trial.__func__
        elif hasattr(trial, "__wrapped__"):
            trial = trial.__wrapped__
        elif isinstance(method := getattr(trial, "__call__", None), MethodType):  # noqa: B004
            trial = method
        else:
            break
    return trial


def _follow(function: FunctionType, found: dict[str, str], owner: str = "") -> None:
    """Note what a function uses from around it, under the names that its code uses."""
    around = {
        f"{owner}default of {name}": parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a name that has no value yet
            around[f"{owner}{name}"] = cell.cell_contents
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            around.setdefault(name, function.__globals__[name])
    for name, value in around.items():
        value = inspect.unwrap(value) if callable(value) else value
        if name in found or isinstance(value, ModuleType):
            continue
        if isinstance(value, FunctionType) and value.__module__ == function.__module__:
            found[name] = f"{value.__qualname__} {code_digest(value.__code__)}"
            _follow(value, found, owner=f"{value.__qualname__}: ")
        elif isinstance(value, FunctionType):
            found[name] = _known_by_name(value)
        else:
            found[name] = describe(value, _known_by_name)


def _global_names(code: CodeType) -> list[str]:
    """Global names that the code, or a function or comprehension inside it, looks up."""
    own = [step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"]
    inner = [name for x in code.co_consts if isinstance(x, CodeType) for name in _global_names(x)]
    return list(dict.fromkeys([*own, *inner]))


def _known_by_name(value: Any) -> str:
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    return type(value).__qualname__
