"""Does a plain value fit an annotation that is known only as source text?"""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from hmmoe.runtime.signatures import Module, lookup

PLAIN = {"int": int, "float": (int, float), "bool": bool, "str": str, "Path": str}
LISTS = {"list", "Sequence", "Iterable", "Collection", "tuple", "List", "Tuple", "set", "frozenset"}
DICTS = {"dict", "Mapping", "MutableMapping", "Dict"}


def fits(value: Any, annotation: ast.expr, module: Module, depth: int = 10) -> bool:
    """False only where the value surely is wrong; classes, callables and unknown names accept everything."""
    if depth == 0 or (isinstance(value, Mapping) and "_target_" in value):
        return True
    again = {"module": module, "depth": depth - 1}
    match annotation:
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(text)):
            return fits(value, ast.parse(text, mode="eval").body, **again)
        case ast.BinOp(op=ast.BitOr()):
            return fits(value, annotation.left, **again) or fits(value, annotation.right, **again)
        case ast.Subscript(slice=inner):
            return _fits_generic(value, _last_name(annotation.value), inner, again)
        case ast.Name(id=name) if name in PLAIN:
            return isinstance(value, PLAIN[name]) and (name == "bool" or not isinstance(value, bool))
        case ast.Name(id=name) if name in LISTS:
            return isinstance(value, Sequence) and not isinstance(value, str)
        case ast.Name(id=name) if name in DICTS:
            return isinstance(value, Mapping)
        case ast.Name(id=name):
            found = lookup(name, module)
            if found is None or isinstance(found.node, ast.ClassDef) or not isinstance(found.node, ast.expr):
                return True
            return fits(value, found.node, found.module, depth - 1)
    return True


def _fits_generic(value: Any, origin: str, inner: ast.expr, again: dict[str, Any]) -> bool:
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if origin == "Literal":
        return any(isinstance(part, ast.Constant) and _same(part.value, value) for part in parts)
    if origin == "Optional":
        return value is None or fits(value, inner, **again)
    if origin == "Union":
        return any(fits(value, part, **again) for part in parts)
    if origin in LISTS:
        element = parts[0] if len(parts) == 1 or isinstance(parts[-1], ast.Constant) else None
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        return listed and (element is None or all(fits(item, element, **again) for item in value))
    if origin in DICTS:
        return isinstance(value, Mapping) and all(fits(item, parts[-1], **again) for item in value.values())
    return True


def _same(expected: Any, value: Any) -> bool:
    """Equal and of one type: True is no 1."""
    return type(expected) is type(value) and expected == value


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def wording(annotation: ast.expr, module: Module) -> str:
    """The annotation in a reader's words, an alias of literals spelled out."""
    if isinstance(annotation, ast.Name):
        found = lookup(annotation.id, module)
        if found is not None and isinstance(found.node, ast.Subscript) and _last_name(found.node.value) == "Literal":
            annotation = found.node
    if isinstance(annotation, ast.Subscript) and _last_name(annotation.value) == "Literal":
        parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return "one of " + ", ".join(str(part.value) for part in parts if isinstance(part, ast.Constant))
    return ast.unparse(annotation)
