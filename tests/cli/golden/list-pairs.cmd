list pairs -o md
