from flowshunt.jit import kernel
from flowshunt.conntrack.kernels import tcp


@kernel
def valid_new(flags, seq, ack, loose):
    return tcp.valid_new(flags)


@kernel
def create(conns, row, flags, seq, ack, window, wscale, length):
    return tcp.create(conns, row, flags, seq, ack, window, wscale, length)


@kernel
def update(conns, row, d, flags, seq, ack, window, wscale, length, check_sequence):
    return tcp.update(conns, row, d, flags, seq, ack, window, wscale, length, check_sequence)
