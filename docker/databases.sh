#!/bin/sh
# Airflow's own database and that of the flows, each with a user of its own. The image of PostgreSQL runs this once,
# when it has made its data folder.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --no-psqlrc \
    --set airflow="$AIRFLOW_DB_PASSWORD" --set pipedag="$PIPEDAG_DB_PASSWORD" <<'SQL'
CREATE ROLE airflow LOGIN PASSWORD :'airflow';
CREATE DATABASE airflow OWNER airflow;
REVOKE CONNECT ON DATABASE airflow FROM PUBLIC;
CREATE ROLE pipedag LOGIN PASSWORD :'pipedag';
CREATE DATABASE pipedag OWNER pipedag;
REVOKE CONNECT ON DATABASE pipedag FROM PUBLIC;
SQL
