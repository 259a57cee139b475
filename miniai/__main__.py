"`python -m miniai` is the command `miniai`"
from miniai.pipeline import main

if __name__ == '__main__': main()
