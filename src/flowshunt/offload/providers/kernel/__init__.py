"""The provider `kernel`: established connections are forwarded by BPF programs in the Linux kernel.

A program at the ingress of every port (`bpf/forward.c`, shipped compiled) looks each packet up in a map of flows. What
a flow covers is rewritten and redirected to its port without coming up; everything else is redirected to one device,
where the switch receives for all its ports.

    port ──> forward ──hit──> rewrite, count ──> port
                │ miss
                ▼
             tap device, behind a tag with the port's number ──> the switch's packet socket

With `kernel-mode=xdp` another program (`bpf/xdp.c`) is before it, which forwards frames between ports that both have
it, by the same maps, and lets everything else pass.

- `elf`: programs out of the object; `flowshunt.base.bpf` is the system call.
- `records`: the structures that the programs share with us. `entries`: what a path becomes in them.
- `slots`: which flow has which place in them, and what passed there; `schema`: the memory of it. Both are kernels.
- `objects`: the maps and programs of one provider. `pinned`: what the next process finds of them.
- `links`: a program on a device, and its pin. `devices`: that at the ingress, and the device for misses. `frames`: that
  at XDP, and which devices take frames. `peers`: may packets go straight to the other end of a veth pair? `looking`:
  asking the kernel such things beside the packets.
- `ports`: which ports are which devices; `attaching`: making them so. `flows`: installed, counted, handed back.
- `options`: what can be set. `provider`: all of it, on the contract of `flowshunt.offload`.

The daemon says which ports are devices (`Attaching.attach`, `detach`) and receives what goes up.
"""
