"""Kernels that needn't import the libraries: one process does it, and becomes a kernel for each notebook by forking.

To import PyTorch, diffusers and transformers takes seconds, and `make test` runs two dozen notebooks. `python warm.py SOCKET` is the process that forks;
`python warm.py SOCKET -f CONNECTION_FILE` stands where `python -m ipykernel_launcher -f CONNECTION_FILE` would, and the kernel gets its folder and environment.
It imports the libraries only, and nothing that computes: each notebook still imports `miniai` itself, in a process of its own."""
import json, os, signal, socket, sys

def become_kernel(asker, folder, env, args):
    "The forked process: what `python -m ipykernel_launcher` does, where and as the asker would have done it"
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    asker.sendall(b'%d\n' % os.getpid()) # And stays open as long as the kernel lives
    from ipykernel.kernelapp import launch_new_instance
    launch_new_instance(argv=[*args, f'--IPKernelApp.parent_handle={os.getppid()}']) # With which it ends, too

def serve(address):
    "Import the libraries, then fork for everyone who asks"
    sys.path.pop(0) # The folder of this file
    import accelerate, diffusers, ipykernel.kernelapp, ipywidgets, matplotlib.pyplot, torch, transformers
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer
    signal.signal(signal.SIGCHLD, signal.SIG_IGN) # Nobody has to ask how a kernel ended
    server,parent = socket.socket(socket.AF_UNIX),os.getppid()
    server.bind(address)
    server.listen()
    server.settimeout(5)
    while os.getppid()==parent:
        try: asker,_ = server.accept()
        except TimeoutError: continue
        asker.setblocking(True)
        asked = json.loads(asker.makefile().readline())
        if not os.fork():
            server.close()
            become_kernel(asker, *asked)
            os._exit(0)
        asker.close()

def ask(address, *args):
    "Be a kernel's process for whoever started it: pass on its signals, and end when it ends"
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        server.sendall(json.dumps([os.getcwd(), dict(os.environ), args]).encode() + b'\n')
        pid = int(server.makefile().readline())
        for name in signal.SIGINT,signal.SIGTERM: signal.signal(name, lambda number,frame: os.kill(pid, number))
        server.recv(1)

if __name__=='__main__': ask(*sys.argv[1:]) if len(sys.argv)>2 else serve(sys.argv[1])
