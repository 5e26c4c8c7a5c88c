"""The Airflow side: a plan becomes a DAG, a step an operator."""
