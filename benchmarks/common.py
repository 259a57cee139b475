"What every benchmark says of its run."
import os, platform, shlex, sys
from importlib.metadata import version
from pathlib import Path
import torch

def command():
    "The command that was typed"
    return shlex.join(['python', f'benchmarks/{Path(sys.argv[0]).name}', *sys.argv[1:]])

def machine():
    "What the figures were measured on"
    try: cpu = next(line.split(':')[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name'))
    except (OSError,StopIteration): cpu = platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ''
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, 'getloadavg') else ''
    threads = torch.get_num_threads()
    versions = ', '.join(f'{name} {version(name)}' for name in ('torch','diffusers','transformers'))
    return f"{platform.system()}, {cpu}{gpu}, {threads} thread{'s'*(threads>1)}{load}; Python {platform.python_version()}, {versions}"
