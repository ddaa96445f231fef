-- Run once, on an empty volume. Users and permissions of MLflow; runs and models are in the database `mlflow`.
CREATE DATABASE mlflow_auth;
