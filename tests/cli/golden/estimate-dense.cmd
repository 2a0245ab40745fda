estimate llama-2-7b -c 4096 --kv-cache-dtype f16
