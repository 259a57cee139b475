"`python -m miniai` is the command `miniai`"
from miniai.own import main

if __name__ == '__main__': main()
