#!/usr/bin/env bash
# The official image's contract: POSTGRES_PASSWORD, _USER, _DB, _INITDB_ARGS and _HOST_AUTH_METHOD (the first four
# also as …_FILE), PGDATA, /docker-entrypoint-initdb.d, options in place of a command, root or any user.
set -Eeuo pipefail

setting() { # NAME DEFAULT
  local file="$1_FILE"
  if [ -n "${!1:-}" ] && [ -n "${!file:-}" ]; then
    echo "$1 and $file are both set: only one may be" >&2
    exit 1
  fi
  if [ -n "${!file:-}" ]; then printf '%s' "$(<"${!file}")"; else printf '%s' "${!1:-$2}"; fi
}

initialise() {
  local user password database method
  user=$(setting POSTGRES_USER postgres)
  password=$(setting POSTGRES_PASSWORD '')
  database=$(setting POSTGRES_DB "$user")
  method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
  if [ -z "$password" ] && [ "$method" != trust ]; then
    echo 'POSTGRES_PASSWORD must be set, or POSTGRES_HOST_AUTH_METHOD=trust to do without' >&2
    exit 1
  fi
  eval "initdb --username=\"\$user\" --pwfile=<(printf '%s\n' \"\$password\") $(setting POSTGRES_INITDB_ARGS '')"
  {
    echo "listen_addresses = '*'"
    echo "unix_socket_directories = '/var/run/postgresql, /tmp'"
  } >>"$PGDATA/postgresql.conf"
  echo "host all all all $method" >>"$PGDATA/pg_hba.conf"

  PGUSER=$user pg_ctl --pgdata="$PGDATA" --options='-c listen_addresses= -p 5432' --wait --silent start
  local sql=(psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc --username "$user")
  if [ "$database" != postgres ]; then
    "${sql[@]}" --dbname postgres --set name="$database" <<<'create database :"name";'
  fi
  local file
  for file in /docker-entrypoint-initdb.d/*; do
    case "$file" in
      *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
      *.sql) "${sql[@]}" --dbname "$database" --file "$file" ;;
      *.sql.gz) gunzip -c "$file" | "${sql[@]}" --dbname "$database" ;;
    esac
  done
  PGUSER=$user pg_ctl --pgdata="$PGDATA" --mode=fast --wait --silent stop
}

if [ "${1:0:1}" = - ]; then set -- postgres "$@"; fi
if [ "$1" = postgres ]; then
  if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chmod 0700 "$PGDATA"
    chown -R postgres "$PGDATA" /var/run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$BASH_SOURCE" "$@"
  fi
  mkdir -p "$PGDATA"
  chmod 0700 "$PGDATA"
  if [ ! -s "$PGDATA/PG_VERSION" ]; then initialise; fi
fi
exec "$@"
