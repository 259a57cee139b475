"""Blocks of `WichmannHill` beside `torch.rand`, NumPy's `default_rng` and a Python loop: nanoseconds a number, one thread.

    python benchmarks/random_numbers.py

The contenders take turns. Shown are the median and the best of each one's turns, in processor time of this process, and how many times
as long as `WichmannHill.rand` that is. On a machine that's busy with other things only the best is to be trusted: the others empty the
cache that the tables live in. Targets for 10**6 and 10**7 numbers: `torch.rand` (float32) takes at least 2 times as long as
`WichmannHill.rand` (float64), and `default_rng` at least 1.5 times. The tables: below 2 MB, built in less than 50 ms."""
import time
from statistics import median
import numpy as np, torch
from common import machine
import miniai.random as mr

torch.set_num_threads(1)

def cpu(f, number):
    start = time.process_time()
    for _ in range(number): f()
    return (time.process_time()-start) / number

def compare(contenders, n, turns, number):
    times = [[cpu(f, number)/n*1e9 for f in contenders.values()] for _ in range(turns)]
    return {name: (median(ts), min(ts)) for name,ts in zip(contenders, zip(*times))}

def show_tables():
    ms = 1000*cpu(mr._tables, 1)
    print(f'tables: {sum(t.nbytes for tables in mr._tables() for t in tables)/1e6:.2f} MB, built in {ms:.1f} ms')

def show_jumps():
    rng = mr.WichmannHill(42)
    print(f'jumpahead(10**18): {1e6*cpu(lambda: rng.jumpahead(10**18), 1000):.1f} µs')

def main():
    print(f'{machine()}, NumPy {np.__version__}')
    show_tables()
    show_jumps()
    ours,pcg = mr.WichmannHill(42),np.random.default_rng(42)
    contenders = {'WichmannHill.rand': ours.rand, 'numpy default_rng': pcg.random, 'torch.rand': torch.rand,
                  'torch.rand float64': lambda n: torch.rand(n, dtype=torch.float64)}
    for n,turns,number in ((7840, 201, 20), (10**6, 41, 1), (10**7, 15, 1)):
        t = compare({name: lambda f=f: f(n) for name,f in contenders.items()}, n, turns, number)
        if n==7840: t['loop of random()'] = compare({'': lambda: [ours.random() for _ in range(n)]}, n, 15, 1)['']
        print(f'\n{n:,} numbers               median ns  ratio      best ns  ratio')
        for name,ns in t.items(): print(f'{name:27}', *(f'{v:10.2f} {v/o:6.2f}  ' for v,o in zip(ns, t['WichmannHill.rand'])))

if __name__=='__main__': main()
