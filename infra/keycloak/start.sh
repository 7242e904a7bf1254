#!/bin/bash
# Keycloak reads passwords from its environment only. They come from files here, so that they stand neither in
# docker-compose.yml nor in what `docker inspect` shows.
set -euo pipefail

secret() {
  local file="/run/secrets/$1"
  if [[ ! -s "$file" ]]; then
    echo "start.sh: the secret $1 is missing or empty; run: python3 -m infra.containers.make_secrets" >&2
    exit 1
  fi
  cat "$file"
}

KC_DB_PASSWORD="$(secret keycloak_database_password)"
KC_BOOTSTRAP_ADMIN_PASSWORD="$(secret keycloak_admin_password)"
CONSOLE_CLIENT_SECRET="$(secret keycloak_client_secret)"
export KC_DB_PASSWORD KC_BOOTSTRAP_ADMIN_PASSWORD CONSOLE_CLIENT_SECRET

# The data folder is memory: everything that must last is in PostgreSQL. A realm that exists is left as it is.
mkdir -p /opt/keycloak/data/import
cp /opt/keycloak/realms/realm.json /opt/keycloak/data/import/
exec /opt/keycloak/bin/kc.sh start --optimized --import-realm
