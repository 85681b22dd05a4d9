"""How deep, wide and long a GraphQL document may be; what is over a limit is refused before anything is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    OperationDefinitionNode,
    SelectionSetNode,
    ValidationContext,
    ValidationRule,
)

from gpumarket.errors import MarketError

MAX_DEPTH = 10
MAX_ALIASES = 20
MAX_FIELDS = 400
MAX_TOKENS = 2_000


class ComplexityRule(ValidationRule):
    """Refuses a document over the limits. Introspection is exempt from depth, not from the rest."""

    def __init__(self, context: ValidationContext) -> None:
        super().__init__(context)
        for what, found, most in _excesses(measure(context.document)):
            text = f"the query has {what} {found}, at most {most} is allowed"
            context.report_error(GraphQLError(text, original_error=MarketError("request_too_complex", text)))


@dataclass(frozen=True)
class Size:
    """Of a selection with its fragments spread out."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0


def measure(document: DocumentNode) -> Size:
    """The largest of a document's operations. Linear in the document: each fragment is measured once."""
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    known: dict[str, Size] = {}
    sizes = [
        _selection(node.selection_set, fragments, known)
        for node in document.definitions
        if isinstance(node, OperationDefinitionNode)
    ]
    return Size(max((s.depth for s in sizes), default=0), sum(s.fields for s in sizes), sum(s.aliases for s in sizes))


def _excesses(size: Size) -> Iterator[tuple[str, int, int]]:
    limits = (
        ("depth", size.depth, MAX_DEPTH),
        ("field count", size.fields, MAX_FIELDS),
        ("alias count", size.aliases, MAX_ALIASES),
    )
    return (limit for limit in limits if limit[1] > limit[2])


def _selection(
    selections: SelectionSetNode | None, fragments: dict[str, FragmentDefinitionNode], known: dict[str, Size]
) -> Size:
    depth = fields = aliases = 0
    for node in () if selections is None else selections.selections:
        inner = _node(node, fragments, known)
        own = isinstance(node, FieldNode)
        introspection = isinstance(node, FieldNode) and node.name.value.startswith("__")
        depth = max(depth, 0 if introspection else inner.depth + own)
        fields += inner.fields + own
        aliases += inner.aliases + (isinstance(node, FieldNode) and node.alias is not None)
    return Size(depth, fields, aliases)


def _node(node: Any, fragments: dict[str, FragmentDefinitionNode], known: dict[str, Size]) -> Size:
    if not isinstance(node, FragmentSpreadNode):
        return _selection(node.selection_set, fragments, known)
    name = node.name.value
    if name not in known and name in fragments:
        known[name] = Size()  # a fragment inside itself, which GraphQL's own rules refuse, ends here
        known[name] = _selection(fragments[name].selection_set, fragments, known)
    return known.get(name, Size())
