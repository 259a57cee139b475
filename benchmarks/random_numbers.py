"""Blocks of `WichmannHill` beside `torch.rand`, NumPy's PCG64 and a Python loop: nanoseconds a number, one thread.

    python benchmarks/random_numbers.py

The contenders take turns; shown are the median and the best of each one's turns, in processor time of this process. (On a
machine that is busy with other things only the best is to be trusted: they empty the cache that the tables live in.) Targets at 10**6 and 10**7 numbers: at least 2× faster than `torch.rand` (float32)
and 1.3× than `numpy.random.default_rng().random`. The tables: below 2 MB, built in less than 50 ms."""
import platform,time
from statistics import median
import numpy as np, torch
from miniai.random import WichmannHill,_tables

torch.set_num_threads(1)

def cpu(f, number):
    start = time.process_time()
    for _ in range(number): f()
    return (time.process_time()-start) / number

def compare(contenders, n, turns, number):
    times = [[cpu(f, number)/n*1e9 for f in contenders.values()] for _ in range(turns)]
    return {name: (median(ts), min(ts)) for name,ts in zip(contenders, zip(*times))}

def show_tables():
    start = time.perf_counter()
    tables = _tables()
    ms = (time.perf_counter()-start) * 1000
    print(f'tables: {sum(t.nbytes for table in tables for t in table)/1e6:.2f} MB, built in {ms:.1f} ms')

def main():
    print(f'Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}')
    show_tables()
    ours,pcg = WichmannHill(42),np.random.default_rng(42)
    for n,turns,number in ((7840, 201, 20), (10**6, 41, 1), (10**7, 15, 1)):
        out = torch.empty(n, dtype=torch.float64)
        t = compare({'WichmannHill.uniform': lambda: ours.uniform(n), 'WichmannHill.uniform(out=)': lambda: ours.uniform(n, out=out),
                     'numpy PCG64': lambda: pcg.random(n), 'torch.rand': lambda: torch.rand(n),
                     'torch.rand float64': lambda: torch.rand(n, dtype=torch.float64)}, n, turns, number)
        if n==7840: t['loop of random()'] = compare({'': lambda: [ours.random() for _ in range(n)]}, n, 15, 1)['']
        print(f'\n{n:,} numbers               median ns  ratio      best ns  ratio')
        ours_at = t['WichmannHill.uniform']
        for name,ns in t.items(): print(f'{name:27}', *(f'{v:10.2f} {v/o:6.2f}  ' for v,o in zip(ns, ours_at)))

if __name__=='__main__': main()
