"""AUTO_VERSION: the version of a task is a fingerprint of its code.

The fingerprint covers all that is reachable from the task's function and decides what it returns: its bytecode, its
defaults, the values in its closure, the global names that it uses and what they are, and so on for every function and
class of the user's own modules that is found on the way, among them the classes of the enums and dataclasses that it
is called with. The package that the function itself stands in is the user's own, wherever it is installed; other
installed packages count by their version. An edit of a
comment, a docstring, the layout, an annotation or the name of a local variable changes nothing.

Nothing is called, patched or traced, so the same holds for pandas, polars and all else, and a valid task is not called
at all. A plan of polars or a record of pandas operations would ignore more edits, but neither sees what a function does
with collected data, or within a Python function in the plan; then an edit would go unnoticed. What cannot be followed
is an :class:`~pipedag_airflow.errors.AutoVersionError` that names it.
"""

from pipedag_airflow.cache.auto_version.blobs import check_blob
from pipedag_airflow.cache.auto_version.own import own_code
from pipedag_airflow.cache.auto_version.source import CodeVersion, code_version, what_changed

__all__ = ["CodeVersion", "check_blob", "code_version", "own_code", "what_changed"]
