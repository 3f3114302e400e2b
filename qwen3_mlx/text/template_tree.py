"""A chat template's syntax tree, changed so that whatever multiplies asks the allowance first.

jinja2 lets an environment intercept operators, calls and filters. Loops, comparisons, slices, ``~``
and the keys of a dict it carries out by itself, so they get filters around their operands here.
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


# No template can spell these names.
SPEND = {
    "(counted)": limits.counted,
    "(sliced)": limits.sliced,
    "(spend)": _spend,
    "(weighed)": limits.weighed,
}
_SEPARATE = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)  # bodies that pay for themselves


def guard_tree(tree: nodes.Template, environment: Environment) -> nodes.Template:
    """Change `tree` and return it. Raises `SecurityError` for a tag that no chat needs."""
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
        """Let the body, which may be called from anywhere, pay whenever it runs."""
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
            return node  # text against a constant is over at the first difference
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
        raise SecurityError("an autoescape block")  # jinja2 computes its condition as it compiles

    visit_EvalContextModifier = visit_ScopedEvalContextModifier


def _filtered(name: str, value: nodes.Expr, weight: int | None = None) -> nodes.Filter:
    args: list[nodes.Expr] = [] if weight is None else [nodes.Const(weight)]
    node = nodes.Filter(value, name, args, [], None, None)
    node.set_lineno(value.lineno)
    return node


def _weighed(value: nodes.Expr) -> nodes.Expr:
    return value if _plain(value) else _filtered("(weighed)", value)


def _paying(weight: int, node: nodes.Node) -> nodes.Node:
    """A statement that spends `weight`, without which a body runs for nothing."""
    return nodes.ExprStmt(_filtered("(spend)", nodes.Const(weight, lineno=node.lineno)))


def _plain(value: nodes.Expr) -> bool:
    """Whether it is a constant, or a list of some."""
    if isinstance(value, (nodes.List, nodes.Tuple)):
        return all(isinstance(item, nodes.Const) for item in value.items)
    return isinstance(value, nodes.Const)


def _weight(body: list[Any]) -> int:
    """What carrying out `body` once costs, without loops and macros inside it."""
    waiting, count = list(body), 0
    while waiting:
        node = waiting.pop()
        count += 1
        if not isinstance(node, _SEPARATE):
            waiting.extend(node.iter_child_nodes())
    return count * VALUE
