"""How a flow becomes a DAG of the module that Airflow is parsing, without boilerplate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Internal to Airflow, and the same since 3.0: what "with DAG(...)" registers itself with.
from airflow.sdk.definitions._internal.contextmanager import DagContext

from pipedag_airflow.errors import DuplicateNameError
from pipedag_airflow.provider.dag import compile_dags
from pipedag_airflow.provider.namesakes import refuse_namesakes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import DAG

    from pipedag_airflow.core.flow import Flow

__all__ = ["on_flow_defined", "to_dag"]

#: The flows that became DAGs automatically, by the module that Airflow parses and the name of the flow.
_automatic: dict[tuple[str, str], tuple[Flow, tuple[DAG, ...]]] = {}


def on_flow_defined(flow: Flow, module: Mapping[str, Any]) -> None:
    """Make a DAG of a flow whose block was left, if Airflow is parsing just the module that holds the block.

    A flow that is imported from elsewhere is left alone: it belongs to its own file.

    Args:
        flow: The flow.
        module: Global variables of the module that holds the flow's block.

    Raises:
        DuplicateNameError: if the module, or another file of the dags folder, has another flow of that name.
        FlowError: if the flow cannot become a DAG.
    """
    name = DagContext.current_autoregister_module_name
    if name is None or module.get("__name__") != name:
        return
    _automatic[name, flow.name] = (flow, _compiled(flow, {}, module, flow_name=True))


def to_dag(flow: Flow, module: Mapping[str, Any], dag_args: Mapping[str, Any]) -> DAG:
    """Make a DAG of a flow with arguments of the user's, in place of the automatic one.

    Args:
        flow: The flow.
        module: Global variables of the calling module.
        dag_args: Arguments of ``airflow.sdk.DAG``; they win over pipedag.yaml.

    Raises:
        DuplicateNameError: if the module, or another file of the dags folder, has another DAG of that name.
        FlowError: if the flow cannot become a DAG.
    """
    name = DagContext.current_autoregister_module_name or ""
    known = _automatic.get((name, flow.name))
    if known is not None and known[0] is flow and module.get("__name__") == name:
        registered = DagContext.autoregistered_dags
        registered -= {(dag, owner) for dag, owner in registered if any(dag is other for other in known[1])}
    return _compiled(flow, dag_args, module, flow_name=False)[0]


def _compiled(
    flow: Flow, dag_args: Mapping[str, Any], module: Mapping[str, Any], *, flow_name: bool
) -> tuple[DAG, ...]:
    """Compile a flow, and refuse a second DAG of one name in the module or in another file.

    Airflow itself takes any one of two DAGs of one name in a file, today this one and tomorrow that one.
    """
    known = {dag.dag_id for dag, _ in DagContext.autoregistered_dags}
    dags = compile_dags(flow, dag_args)
    for dag in dags:
        if dag.dag_id in known:
            raise DuplicateNameError(
                f"The module {flow.file} has two flows, or DAGs, of the name {dag.dag_id!r}: each flow becomes the DAG "
                "of its name, and each stage of a flow that is split the DAG <flow>.<stage>. Rename one of them."
            )
    refuse_namesakes([dag.dag_id for dag in dags], module, flow_name=flow_name)
    return dags
