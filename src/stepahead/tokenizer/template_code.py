"""Code generation for chat templates: hooks where Jinja's sandbox has none.

Owns which constructs report to the environment: items of loops, `~`, slices, comparisons, tuples, the joining of
what macros write. Must not know what the environment does with the reports.
"""

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame

_COMPARISONS = {
    "eq": "==", "ne": "!=", "gt": ">", "gteq": ">=", "lt": "<", "lteq": "<=", "in": "in", "notin": "not in"
}  # fmt: skip


class MeteredCode(CodeGenerator):
    """Generates code that tells the meter about what Jinja's own hooks do not see."""

    def write_commons(self) -> None:
        super().write_commons()
        self.writeline("concat = environment.joiner_for(context)")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802
        counted = nodes.EnvironmentAttribute("counted")
        node.iter = nodes.Call(counted, [node.iter], [], None, None, lineno=node.lineno)
        super().visit_For(node.set_environment(self.environment), frame)  # type: ignore[arg-type]

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.concat_values(context, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802
        self.write("(")
        self._visit_comparable(node.expr, frame)
        for operand in node.ops:
            self.visit(operand, frame)
        self.write(")")

    def visit_Operand(self, node: nodes.Operand, frame: Frame) -> None:  # noqa: N802
        self.write(f" {_COMPARISONS[node.op]} ")
        self._visit_comparable(node.expr, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.copied(context, ")
        self.visit(node.node, frame)
        self.write(")[")
        self.visit(node.arg, frame)
        self.write("]")

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        if node.ctx != "load":
            super().visit_Tuple(node, frame)
            return
        self.write("environment.comparable(context, ")
        super().visit_Tuple(node, frame)
        self.write(")")

    def _visit_comparable(self, node: nodes.Expr, frame: Frame) -> None:
        self.write("environment.comparable(context, ")
        self.visit(node, frame)
        self.write(")")
