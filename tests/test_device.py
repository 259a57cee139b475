"The package on an accelerator, as far as one without hardware can show it: see `fake_device`."
import os, subprocess, sys
from pathlib import Path

def test_it_runs_on_an_accelerator():
    "The pretended accelerator changes PyTorch for good, so `device_checks` run in a process of their own"
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', Path(__file__).with_name('device_checks.py')]
    run = subprocess.run(command, env={**os.environ, 'MPLBACKEND':'agg'}, text=True, capture_output=True)
    assert run.returncode==0, run.stdout + run.stderr
