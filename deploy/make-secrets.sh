#!/bin/sh
# Makes the secrets of docker-compose.yml, once: existing ones are kept. Usage: deploy/make-secrets.sh [FOLDER]
set -eu

folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
# The folder keeps others out. The files must be readable inside the containers, where nobody is root.
chmod 0700 "$folder"

keep() { # NAME VALUE
    if [ ! -s "$folder/$1" ]; then
        printf '%s\n' "$2" >"$folder/$1"
        chmod 0444 "$folder/$1"
    fi
}

random() {
    head -c 30 /dev/urandom | base64 | tr '+/' '-_'
}

for name in postgres_password web_password worker_password reader_password valkey_password secret_key; do
    keep "$name" "$(random)"
done

at=db:5432/poxvisio
keep owner_url "postgresql://postgres:$(cat "$folder/postgres_password")@$at"
keep web_url "postgresql://poxvisio_web_login:$(cat "$folder/web_password")@$at"
keep worker_url "postgresql://poxvisio_worker_login:$(cat "$folder/worker_password")@$at"
keep reader_url "postgresql://poxvisio_reader_login:$(cat "$folder/reader_password")@$at"
keep broker_url "redis://:$(cat "$folder/valkey_password")@valkey:6379/0"

echo "secrets in $folder"
