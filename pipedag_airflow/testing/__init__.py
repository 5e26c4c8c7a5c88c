"""Conformance suites: what every plug-in of a kind must do, as classes of pytest tests.

Derive a test class from a suite, give it the fixture that makes your plug-in, and run pytest:

    class TestMyLockManager(LockManagerSuite):
        @pytest.fixture
        def make_manager(self, tmp_path):
            return functools.partial(MyLockManager, tmp_path)

Import a suite from its own module: ``store_suite``, ``ibis_suite``, ``lock_suite``, ``blob_suite``,
``table_cache_suite`` and ``engine_suite`` of ``pipedag_airflow.testing``. They need pytest, which this package does not
install.
"""
