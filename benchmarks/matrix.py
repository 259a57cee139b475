"""`Matrix @ Matrix` beside three loops over lists: 5×784 by 784×10, in plain Python.

    python benchmarks/matrix.py

The two take turns. Each figure is the median of its turns, in processor time of this process, so that other programs on the
machine disturb little. Aim: at least 3 times as fast on Python 3.11, at least 8 times from 3.12 on (`math.sumprod`)."""
import platform, random, time
from statistics import median
from miniai.matrix import Matrix

def triple_loop(a, b):
    c = [[0.]*len(b[0]) for _ in a]
    for i in range(len(a)):
        for j in range(len(b[0])):
            for k in range(len(b)): c[i][j] += a[i][k] * b[k][j]
    return c

def cpu_ms(f):
    start = time.process_time()
    f()
    return (time.process_time()-start) * 1000

def main(turns=40):
    draw = random.Random(42)
    a = [[draw.random() for _ in range(784)] for _ in range(5)]
    b = [[draw.gauss(0, 1) for _ in range(10)] for _ in range(784)]
    ma,mb = Matrix(a),Matrix(b)
    sizes = abs(ma)@abs(mb)
    assert max((abs(ma@mb - Matrix(triple_loop(a, b))) / sizes).flat) < 1e-12
    times = [(cpu_ms(lambda: triple_loop(a, b)), cpu_ms(lambda: ma@mb)) for _ in range(turns)]
    loop,ours = map(median, zip(*times))
    print(f'{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}')
    print(f'three loops over lists {loop:6.2f} ms\nMatrix @               {ours:6.2f} ms\nratio                  {loop/ours:6.1f}')

if __name__=='__main__': main()
