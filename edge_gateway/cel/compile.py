"""A text to a Python function, in one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge_gateway.cel.checker import Checked, check
from edge_gateway.cel.errors import EvaluationError
from edge_gateway.cel.functions import Functions
from edge_gateway.cel.parser import parse
from edge_gateway.cel.python import python_source
from edge_gateway.cel.standard import STANDARD
from edge_gateway.cel.types import Type
from edge_gateway.cel.values import CelValue


def compile_expression(
    text: str, variables: Mapping[str, Type], functions: Functions = STANDARD
) -> Callable[[Mapping[str, CelValue]], CelValue]:
    """A function from the variables' values to the expression's.

    Args:
        text: the expression.
        variables: the types of the variables there are.
        functions: the functions there are.

    Returns:
        The function. It raises EvaluationError if there is no result; a variable that the expression uses and that is
        missing is one of the reasons. Values are taken to be of their declared types and are not looked at.

    Raises:
        ExpressionError: the text cannot be used.
    """
    checked = check(parse(text), variables, functions)
    names = _python_names(checked)
    lines = [f"    {python} = values[{name!r}]" for name, python in names.items()]
    if lines:
        lines = ["  try:", *lines, "  except KeyError as missing:", "    raise no_value(missing) from None"]
    return _function(checked, names, "values", lines)


def compile_positional(
    text: str, variables: Mapping[str, Type], functions: Functions = STANDARD
) -> Callable[..., CelValue]:
    """As `compile_expression`, but the function takes a value for each variable, in the order of `variables`."""
    checked = check(parse(text), variables, functions)
    names = _python_names(checked)
    parameters = [names.get(name, f"unused_{index}") for index, name in enumerate(variables)]
    return _function(checked, names, ", ".join(parameters), [])


def _python_names(checked: Checked) -> dict[str, str]:
    return {name: f"variable_{index}" for index, name in enumerate(checked.variables)}


def _function(checked: Checked, names: Mapping[str, str], parameters: str, body: list[str]) -> Callable[..., CelValue]:
    source, namespace = python_source(checked, names)
    namespace["no_value"] = _no_value
    lines = [f"def evaluate({parameters}):", *body, f"  return {source}"]
    code = compile("\n".join(lines), "<cel expression>", "exec")
    exec(code, namespace)  # noqa: S102 -- the point of this module; python_source() says what may enter
    evaluate = namespace["evaluate"]
    if not callable(evaluate):
        raise TypeError("the generated source defines evaluate()")
    return evaluate


def _no_value(error: KeyError) -> EvaluationError:
    return EvaluationError(f"the variable `{error.args[0]}` has no value", where="variables")
