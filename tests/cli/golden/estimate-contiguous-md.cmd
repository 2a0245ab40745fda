estimate fixtures/small.json -c 100 -t contiguous -o md
