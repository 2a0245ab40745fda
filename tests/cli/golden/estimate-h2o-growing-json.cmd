estimate fixtures/small.json -p 90 -n 10 -t h2o:heavy=10,recent=20 -t growing --detail -o json
