estimate fixtures/small.json -p 90 -n 10 -t window:32 -o csv
