#!/usr/bin/env bash
# Build TensorRT engines on the module that they are for: export/jetson/build.sh BUNDLE OUT
# Sizes follow the memory of the module, so that an Orin Nano builds within its 8 GB.
set -euo pipefail
bundle=${1:?usage: build.sh BUNDLE OUT}
out=${2:?usage: build.sh BUNDLE OUT}
cd "$(dirname "$0")/../.."

[ -e /etc/nv_tegra_release ] || { echo "error: this is no Jetson; engines are built where they run" >&2; exit 2; }
megabytes=$(awk '/^MemTotal/ { print int($2 / 1000) }' /proc/meminfo)
if   [ "$megabytes" -lt 9000 ];  then sizes="--batch 1 --patches 1024 --policy-tokens 1024"   # Orin Nano, Orin NX 8 GB
elif [ "$megabytes" -lt 17000 ]; then sizes="--batch 2 --patches 2048 --policy-tokens 2048"   # Orin NX 16 GB
else                                  sizes="--batch 8 --patches 5120 --policy-tokens 4096"   # AGX Orin, AGX Thor
fi
echo "power mode: $(nvpmodel -q 2>/dev/null | head -n 1 || echo unknown); memory: $megabytes MB; $sizes"
exec python3 -m export tensorrt "$bundle" --out "$out" $sizes
