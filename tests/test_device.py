"The package on an accelerator, as far as one without hardware can show it: see `fake_device`."
import os, subprocess, sys
from pathlib import Path
import pytest

@pytest.mark.parametrize('dtype', ['float32','float16'])
def test_it_runs_on_an_accelerator(dtype):
    "The pretended accelerator changes PyTorch for good, so `device_checks` run in a process of their own"
    env = {**os.environ, 'DTYPE':dtype, 'MPLBACKEND':'agg'}
    run = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', Path(__file__).with_name('device_checks.py')], env=env, text=True, capture_output=True)
    assert run.returncode==0, run.stdout + run.stderr
