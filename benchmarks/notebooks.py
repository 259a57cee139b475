"""How long each notebook takes and how much memory, alone in a fresh process on one thread: `python benchmarks/notebooks.py`.

`make test` runs them side by side, as many as there are cores."""
import os, platform, sys, time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
nbdev_test = str(Path(sys.executable).with_name('nbdev-test'))
quiet = dict(HF_HUB_OFFLINE='1', OMP_NUM_THREADS='1', TQDM_DISABLE='1')

def run(path):
    "Seconds, GiB at the most, and whether it passed"
    start = time.perf_counter()
    pid = os.posix_spawn(nbdev_test, [nbdev_test, str(path), '--n-workers', '0'], {**os.environ, **quiet}, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
    _,status,usage = os.wait4(pid, 0)
    return time.perf_counter()-start, usage.ru_maxrss/2**(30 if sys.platform=='darwin' else 20), status==0

os.chdir(root)
print(f'{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n\n{"notebook":32}seconds   GiB')
rows = {path.stem: run(path) for path in sorted((root/'nbs').glob('*.ipynb'))}
for name,(seconds,memory,passed) in rows.items(): print(f'{name:32}{seconds:7.1f}{memory:6.2f}{"" if passed else "  failed"}')
print(f'{"all, the largest":32}{sum(r[0] for r in rows.values()):7.1f}{max(r[1] for r in rows.values()):6.2f}')
