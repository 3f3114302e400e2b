"""Rewrites a chat template's syntax tree so that costly operations charge the allowance first.

jinja2 lets an environment intercept operators, calls and filters, but not loops, comparisons,
slices, ``~`` and the keys of a dict; so this module wraps the operands of those in filters.
"""

from __future__ import annotations

from typing import Any, cast

from jinja2 import Environment, nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

from qwen3_mlx.text import template_limits as limits
from qwen3_mlx.text.template_limits import ALLOWANCE, VALUE


def _spend(weight: int) -> None:
    ALLOWANCE.get().spend(weight)


# Names with parentheses, which no template can use itself.
SPEND = {
    "(counted)": limits.counted,
    "(sliced)": limits.sliced,
    "(spend)": _spend,
    "(weighed)": limits.weighed,
}
_SEPARATE = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)  # each charges its own body


def guard_tree(tree: nodes.Template, environment: Environment) -> nodes.Template:
    """Rewrite `tree` in place and return it. Raises `SecurityError` for an autoescape block."""
    _Guard().visit(tree)
    tree.set_environment(environment)
    return tree


class _Guard(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.For:
        weight = _weight(node.body) + (_weight([node.test]) if node.test else 0)
        self.generic_visit(node)
        values = cast(nodes.Expr, node.iter)
        node.iter = _filtered("(counted)", values, weight)
        if node.recursive:
            node.body.insert(0, _paying(weight, node))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        """Charge for the body each time that it runs, as it may be called from anywhere."""
        weight = _weight(node.body)
        self.generic_visit(node)
        node.body.insert(0, _paying(weight, node))
        return node

    visit_CallBlock = visit_Block = visit_Macro

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered("join", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        first = node.ops[0]
        searches = any(operand.op in ("in", "notin") for operand in node.ops)
        scalar = any(isinstance(one, nodes.Const) for one in (node.expr, first.expr))
        if len(node.ops) == 1 and scalar and not searches:
            return node  # comparing text with a constant stops at the first difference
        node.expr = _weighed(node.expr)
        for operand in node.ops:
            operand.expr = _weighed(operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filtered("(sliced)", node.node)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _filtered("(weighed)", node.key)
        return node

    def visit_ScopedEvalContextModifier(self, node: nodes.Node) -> nodes.Node:
        # jinja2 evaluates the block's condition when it compiles, outside the allowance.
        raise SecurityError("an autoescape block")

    visit_EvalContextModifier = visit_ScopedEvalContextModifier


def _filtered(name: str, value: nodes.Expr, weight: int | None = None) -> nodes.Filter:
    args: list[nodes.Expr] = [] if weight is None else [nodes.Const(weight)]
    node = nodes.Filter(value, name, args, [], None, None)
    node.set_lineno(value.lineno)
    return node


def _weighed(value: nodes.Expr) -> nodes.Expr:
    return value if _plain(value) else _filtered("(weighed)", value)


def _paying(weight: int, node: nodes.Node) -> nodes.Node:
    """A statement that charges `weight`, to be inserted at the start of a body."""
    return nodes.ExprStmt(_filtered("(spend)", nodes.Const(weight, lineno=node.lineno)))


def _plain(value: nodes.Expr) -> bool:
    """Whether `value` is a constant, or a list or tuple of constants."""
    if isinstance(value, (nodes.List, nodes.Tuple)):
        return all(isinstance(item, nodes.Const) for item in value.items)
    return isinstance(value, nodes.Const)


def _weight(body: list[Any]) -> int:
    """The cost of running `body` once, without the loops and macros inside it."""
    waiting, count = list(body), 0
    while waiting:
        node = waiting.pop()
        count += 1
        if not isinstance(node, _SEPARATE):
            waiting.extend(node.iter_child_nodes())
    return count * VALUE
