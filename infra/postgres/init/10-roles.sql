-- Run once by the image's entrypoint, as the superuser, when the data folder is empty.
-- Three roles, none of them a superuser: the owner migrates, the application runs, Keycloak keeps its own database.
-- Passwords come from secret files: psql runs the commands between backquotes in the container.
\set ON_ERROR_STOP on
\set owner_password `cat "${KASBAH_SECRETS_DIR:-/run/secrets}/database_owner_password"`
\set app_password `cat "${KASBAH_SECRETS_DIR:-/run/secrets}/database_app_password"`
\set keycloak_password `cat "${KASBAH_SECRETS_DIR:-/run/secrets}/keycloak_database_password"`

-- An empty password would be a role that nobody can use and nobody understands: stop here instead.
SELECT (:'owner_password' = '' OR :'app_password' = '' OR :'keycloak_password' = '') AS missing \gset
\if :missing
  \warn 'a password file is missing or empty; run: python3 -m infra.containers.make_secrets'
  SELECT 1 / 0 AS a_password_file_is_missing_or_empty;
\endif

CREATE ROLE kasbah_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
  PASSWORD :'owner_password';
CREATE ROLE kasbah_app LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
  PASSWORD :'app_password';
CREATE ROLE keycloak LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
  PASSWORD :'keycloak_password';

CREATE DATABASE kasbah OWNER kasbah_owner;
CREATE DATABASE keycloak OWNER keycloak;
-- By default everybody may connect everywhere.
REVOKE ALL ON DATABASE kasbah, keycloak, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE kasbah TO kasbah_app;
