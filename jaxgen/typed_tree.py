"""Typed trees of frozen dataclasses and Flax modules: their nodes and fields, and whether a value is of its annotated type."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import math
import types as builtin_types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from jaxgen import types


def conform(value: Any, annotation: Any, path: str) -> None:
    """Raises BadInput unless `value` has the annotated type. An int passes as a float; a bool passes as neither."""
    if isinstance(value, float) and not math.isfinite(value):
        # NaN would pass every check of a range, and JSON has no such numbers.
        raise types.BadInput(path, value, "a finite number")
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        if not (is_node(value) or value is None or isinstance(value, (bool, int, float, str, enum.Enum, tuple))):
            raise types.BadInput(path, type(value).__name__, "a frozen dataclass, a Flax module, a scalar or a tuple")
        return
    if is_protocol(annotation):
        methods = [n for n, m in vars(annotation).items() if inspect.isfunction(m) and (n == "__call__" or n[0] != "_")]
        if not (is_node(value) and all(hasattr(value, method) for method in methods)):
            needed = f"a {annotation.__name__}: a frozen dataclass or Flax module with {', '.join(methods)}"
            raise types.BadInput(path, type(value).__name__ if is_node(value) else value, needed)
        return
    if origin in (typing.Union, builtin_types.UnionType):
        for argument in arguments:
            try:
                return conform(value, argument, path)
            except types.BadInput:
                continue
    elif origin is Literal:
        if value in arguments:
            return
    elif origin is tuple:
        if isinstance(value, tuple):
            kinds = item_types(annotation, len(value))
            if len(kinds) == len(value):
                for i, (item, kind) in enumerate(zip(value, kinds, strict=True)):
                    conform(item, kind, f"{path}[{i}]")
                return
    elif annotation is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return
    elif annotation is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return
    elif annotation is type(None):
        if value is None:
            return
    elif isinstance(annotation, type) and isinstance(value, annotation):
        return
    shown = getattr(annotation, "__name__", str(annotation)) if origin is None else str(annotation)
    raise types.BadInput(path, value, f"a value of type {shown}")


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; any other annotation alone."""
    is_union = typing.get_origin(annotation) in (typing.Union, builtin_types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def item_types(annotation: Any, count: int) -> tuple[Any, ...]:
    """Annotations of the items of a tuple that has `count` of them."""
    arguments = typing.get_args(annotation)
    return arguments[:1] * count if len(arguments) == 2 and arguments[1] is Ellipsis else arguments


def enum_member(annotation: type[enum.Enum], value: Any, path: str) -> enum.Enum:
    """The member that a value names; raises BadInput with those that there are."""
    try:
        return annotation(value)
    except ValueError:
        raise types.BadInput(path, value, f"one of {', '.join(str(item.value) for item in annotation)}") from None


def is_protocol(annotation: Any) -> bool:
    """Whether an annotation is a protocol."""
    return getattr(annotation, "_is_protocol", False)


def is_enum(annotation: Any) -> bool:
    """Whether an annotation is an enum."""
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum)


def is_node(value: Any) -> bool:
    """Whether a value is a node: an instance of a dataclass, as Flax modules are."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def config_fields(cls: type) -> list[dataclasses.Field]:
    """The fields of a node's class that are options."""
    # Flax modules carry two fields of their own.
    return [field for field in dataclasses.fields(cls) if field.init and field.name not in ("parent", "name")]


def fields(node: Any) -> list[tuple[str, Any, Any]]:
    """(name, annotation, value) of the options of a node."""
    hints = typing.get_type_hints(type(node))
    return [(field.name, hints.get(field.name, Any), getattr(node, field.name)) for field in config_fields(type(node))]


def nodes(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(dotted name, node) of a node and all below it, each before what is in it."""
    if is_node(node):
        yield path, node
        for name, _, value in fields(node):
            yield from nodes(value, f"{path}.{name}" if path else name)
    elif isinstance(node, tuple):
        for i, item in enumerate(node):
            yield from nodes(item, f"{path}[{i}]")
