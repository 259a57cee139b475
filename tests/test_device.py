"The package on an accelerator, as far as one without hardware can show it: see `fake_device`."
import os, subprocess, sys
from pathlib import Path
import pytest

@pytest.mark.parametrize('dtype,some', [('float16',''), ('float32','training or cpu or our_own')])
def test_it_runs_on_an_accelerator(dtype, some):
    "The pretended accelerator changes PyTorch for good, so `device_checks` run in a process of their own; in float32 only what half precision can't show"
    env = {**os.environ, 'DTYPE':dtype, 'MPLBACKEND':'agg'}
    run = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-k', some, Path(__file__).with_name('device_checks.py')], env=env, text=True, capture_output=True)
    assert run.returncode==0, run.stdout + run.stderr
