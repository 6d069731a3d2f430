"""Signatures of ``_target_`` classes, read from their source text.

Importing timm, transformers and lightning takes ten seconds; parsing the one file that holds a class takes
milliseconds. So a typo in any YAML is found before anything heavy is loaded.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Module(NamedTuple):
    """A parsed source file under its dotted name."""

    name: str
    is_package: bool
    tree: ast.Module


class Found(NamedTuple):
    """A top-level definition and the module that it stands in."""

    node: ast.AST
    module: Module


class Parameter(NamedTuple):
    """One keyword of a callable; ``module`` is where the names of its annotation are known."""

    annotation: ast.expr | None
    required: bool
    module: Module


class Signature(NamedTuple):
    """Keywords of a callable; ``open`` if it takes further ones."""

    parameters: dict[str, Parameter]
    open: bool


@cache
def module(name: str) -> Module | None:
    """The parsed source of a module, found without importing its parents; None where there is no source."""
    top, *rest = name.split(".")
    spec = find_spec(top)  # of a top-level name: through the finder of an editable installation, without an import
    if spec is None:
        return None
    if not rest and spec.origin and spec.origin.endswith(".py"):
        return _parse(name, Path(spec.origin))
    for root in spec.submodule_search_locations or []:
        base = Path(root, *rest)
        for path in (base.with_suffix(".py") if rest else base, base / "__init__.py"):
            if path.is_file():
                return _parse(name, path)
    return None


def _parse(name: str, path: Path) -> Module:
    return Module(name, path.name == "__init__.py", ast.parse(path.read_text(encoding="utf-8")))


def find(dotted: str) -> Found | None:
    """The definition behind a dotted path such as ``hmmoe.peft.hmmoe.HMMoE``; None if there is none to be found."""
    path, _, name = dotted.rpartition(".")
    holder = module(path) if path else None
    return None if holder is None else lookup(name, holder)


@cache
def _definitions(holder: Module) -> dict[str, ast.AST]:
    """Top-level definitions, assignments and imports by name, those inside top-level if and try included."""
    found: dict[str, ast.AST] = {}
    pending = list(holder.tree.body)
    while pending:
        node = pending.pop(0)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = node.value
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.If | ast.Try):
            handlers = [handler.body for handler in getattr(node, "handlers", [])]
            pending += [*node.body, *(part for body in handlers for part in body), *node.orelse]
    return found


def lookup(name: str, holder: Module, depth: int = 12) -> Found | None:
    """What ``name`` means in a module, following imports and plain renamings to where it is defined."""
    node = _definitions(holder).get(name)
    if node is None or depth == 0:
        return None
    if isinstance(node, ast.ImportFrom):
        original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
        source = module(_absolute(node, holder))
        return None if source is None else lookup(original, source, depth - 1)
    if isinstance(node, ast.Name):
        return lookup(node.id, holder, depth - 1)
    return Found(node, holder)


def _absolute(node: ast.ImportFrom, holder: Module) -> str:
    if not node.level:
        return node.module or ""
    parts = holder.name.split(".")
    parts = parts[: len(parts) - node.level + holder.is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def signature(dotted: str) -> Signature | None:
    """Keywords that a class or function takes; None where its source does not say."""
    found = find(dotted)
    if found is None:
        return None
    if isinstance(found.node, ast.FunctionDef):
        return _of_function(found.node, found.module, bound=False)
    return _of_class(found.node, found.module) if isinstance(found.node, ast.ClassDef) else None


def _of_class(node: ast.ClassDef, holder: Module, depth: int = 8) -> Signature | None:
    init = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    if init is not None:
        own = _of_function(init, holder, bound=True)
        return _with_inherited(own, node, init, holder, depth) if own.open else own
    if any(isinstance(part, ast.FunctionDef) and part.name == "__new__" for part in node.body) or depth == 0:
        return None
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return _of_fields(node, holder)
    for base in node.bases:
        found = lookup(base.id, holder) if isinstance(base, ast.Name) else None
        if found is None or not isinstance(found.node, ast.ClassDef):
            return None
        inherited = _of_class(found.node, found.module, depth - 1)
        if inherited is None or inherited.parameters or inherited.open:
            return inherited
    return Signature({}, open=False)


def _with_inherited(own: Signature, node: ast.ClassDef, init: ast.FunctionDef, holder: Module, depth: int) -> Signature:
    """Where ``**kwargs`` goes on to the first base's constructor, what that one takes beside is known too."""
    passed_on = next(
        (
            call
            for call in ast.walk(init)
            if isinstance(call, ast.Call)
            and ast.unparse(call.func) == "super().__init__"
            and any(word.arg is None and ast.unparse(word.value) == init.args.kwarg.arg for word in call.keywords)
        ),
        None,
    )
    base = lookup(node.bases[0].id, holder) if passed_on and isinstance(node.bases[0], ast.Name) else None
    inherited = _of_class(base.node, base.module, depth - 1) if base and isinstance(base.node, ast.ClassDef) else None
    if inherited is None:
        return own
    places = sum(not isinstance(argument, ast.Starred) for argument in passed_on.args)
    given = {*list(inherited.parameters)[:places], *(word.arg for word in passed_on.keywords)}
    rest = {name: parameter for name, parameter in inherited.parameters.items() if name not in given}
    return Signature({**own.parameters, **rest, **own.parameters}, inherited.open)  # own ones first, as in a call


def _of_fields(node: ast.ClassDef, holder: Module) -> Signature | None:
    if node.bases:
        return None
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
    return Signature({f.target.id: Parameter(f.annotation, f.value is None, holder) for f in fields}, open=False)


def _of_function(node: ast.FunctionDef, holder: Module, *, bound: bool) -> Signature:
    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    defaults = [None] * (len(positional) - len(spec.defaults)) + list(spec.defaults)
    pairs = list(zip(positional, defaults, strict=True))[int(bound) :]
    pairs += list(zip(spec.kwonlyargs, spec.kw_defaults, strict=True))
    parameters = {arg.arg: Parameter(arg.annotation, default is None, holder) for arg, default in pairs}
    return Signature(parameters, open=spec.kwarg is not None)
