estimate fixtures/small.json -p 90 -n 10 -b 2 -t kivi:group=8,residual=16,bits=4 -t paged:16 --detail -o table
