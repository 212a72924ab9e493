"""Sending frames on a file descriptor, each behind its virtio-net header, in as few system calls as there can be."""

from __future__ import annotations

import errno as E
import socket
from typing import Any, NamedTuple

import numpy as np

from flowshunt.jit import by_reference, errno, kernel, sendmmsg, writev
from flowshunt.packet.schema import PACKET, TX
from flowshunt.ports.live import (
    V_CHECKSUM_START,
    V_FLAGS,
    V_HEADER_SIZE,
    VNET_CHECKSUM_VALID,
    VNET_SIZE,
    VNET_WORDS,
)
from flowshunt.ports.segments import link_size

MESSAGES = 256
"""Frames in one system call."""

_MESSAGE_WORDS = 8
_MESSAGE_SIZE = 8 * _MESSAGE_WORDS
_DONTWAIT = int(socket.MSG_DONTWAIT)
_EAGAIN, _EINTR, _EIO = E.EAGAIN, E.EINTR, E.EIO
_ENOBUFS, _ENOMEM, _ENETDOWN = E.ENOBUFS, E.ENOMEM, E.ENETDOWN
_ENODEV, _ENXIO, _EBADF, _EBADFD = E.ENODEV, E.ENXIO, E.EBADF, E.EBADFD

SEND_COUNTERS = ("tx_dropped", "tx_errors")
N_DROPPED, N_ERRORS = range(len(SEND_COUNTERS))


class SendArrays(NamedTuple):
    """Memory for MESSAGES frames on their way. `messages`: int64, the system's struct mmsghdr. `vector`: int64
    (2 * MESSAGES, 2), struct iovec. `vnet`: uint16 (MESSAGES, VNET_WORDS), the headers to send. `counters`: int64.
    """

    messages: np.ndarray
    vector: np.ndarray
    vnet: np.ndarray
    counters: np.ndarray


def make_send_arrays(n: int = MESSAGES) -> SendArrays:
    """Messages that point to their two parts, header and frame; only the frame's place is filled in later."""
    arrays = SendArrays(
        np.zeros((n, _MESSAGE_WORDS), np.int64),
        np.zeros((2 * n, 2), np.int64),
        np.zeros((n, VNET_WORDS), np.uint16),
        np.zeros(len(SEND_COUNTERS), np.int64),
    )
    places = np.arange(n)
    arrays.messages[:, 2] = arrays.vector.ctypes.data + 2 * 16 * places
    arrays.messages[:, 3] = 2
    arrays.vector[0::2, 0] = arrays.vnet.ctypes.data + VNET_SIZE * places
    arrays.vector[0::2, 1] = VNET_SIZE
    return arrays


def _example() -> tuple[Any, ...]:
    data = np.zeros(64, np.uint8)
    vnet = np.zeros((1, VNET_WORDS), np.uint16)
    return make_send_arrays(1), 0, 0, np.zeros(1, TX), data, data, np.zeros(1, PACKET), vnet


@kernel
def write_header(out: Any, to: Any, tx: Any, k: Any, frame: Any, data: Any, packets: Any, vnet: Any) -> Any:
    """Write frame k's virtio-net header to out[to:to + VNET_WORDS], uint16.

    A checksum that is still to be computed moves with the headers before it.
    """
    i = np.int64(tx["packet"][k])
    if tx["cut"][k] != 0:
        for word in range(VNET_WORDS):
            out[to + word] = 0
        return
    for word in range(VNET_WORDS):
        out[to + word] = vnet[i, word]
    out[to + V_FLAGS] = np.int64(vnet[i, V_FLAGS]) & ~VNET_CHECKSUM_VALID
    if vnet[i, V_CHECKSUM_START] != 0:
        growth = link_size(frame, tx["data"][k]) - link_size(data, packets["data"][i])
        out[to + V_CHECKSUM_START] = (np.int64(vnet[i, V_CHECKSUM_START]) + growth) & 0xFFFF
        if vnet[i, V_HEADER_SIZE] != 0:
            out[to + V_HEADER_SIZE] = (np.int64(vnet[i, V_HEADER_SIZE]) + growth) & 0xFFFF


@kernel
def _prepare(s: Any, j: Any, tx: Any, k: Any, data: Any, own: Any, packets: Any, vnet: Any) -> Any:
    """Fill in message j with frame k."""
    frame = own if tx["source"][k] != 0 else data
    s.vector[2 * j + 1, 0] = frame.ctypes.data + tx["data"][k]
    s.vector[2 * j + 1, 1] = np.int64(tx["length"][k])
    write_header(s.vnet.reshape(-1), j * VNET_WORDS, tx, k, frame, data, packets, vnet)


@kernel
def _judge(s: Any, problem: Any, n: Any) -> Any:
    """What an error means when n frames are left: how many of them are given up; -1: the device is gone."""
    if problem == _ENODEV or problem == _ENXIO or problem == _EBADF or problem == _EBADFD:
        return np.int64(-1)
    if problem == _EINTR:
        return np.int64(0)
    if problem == _EAGAIN or problem == _ENOBUFS or problem == _ENOMEM or problem == _ENETDOWN or problem == _EIO:
        s.counters[N_DROPPED] += n
        return n
    s.counters[N_ERRORS] += 1
    return np.int64(1)


@kernel(inline=False)
def _flush(s: Any, fd: Any, n: Any) -> Any:
    at = np.int64(0)
    while at < n:
        sent = np.int64(sendmmsg(fd, s.messages.ctypes.data + at * _MESSAGE_SIZE, n - at, np.int64(_DONTWAIT)))
        if sent > 0:
            at += sent
            continue
        problem = np.int64(errno())
        given_up = _judge(s, problem, n - at)
        if given_up < 0:
            return problem
        at += given_up
    return np.int64(0)


@kernel(example=_example)
def send_frames(s: Any, fd: Any, port: Any, tx: Any, data: Any, own: Any, packets: Any, vnet: Any) -> Any:
    """Send the frames of `tx` that are for `port` on a packet socket; returns 0, or the errno of a device that is gone.

    `s`: SendArrays. `tx`: TX. `data`, `own`: uint8, what source 0 and 1 mean. `packets`: PACKET, `vnet`: uint16
    (n, VNET_WORDS), those of the batch. What the device refuses is counted.
    """
    s = by_reference(s)
    n = np.int64(0)
    for k in range(len(tx)):
        if np.int64(tx["port"][k]) != port:
            continue
        _prepare(s, n, tx, k, data, own, packets, vnet)
        n += 1
        if n == len(s.messages):
            problem = _flush(s, fd, n)
            if problem != 0:
                return problem
            n = np.int64(0)
    return _flush(s, fd, n)


@kernel(example=_example)
def write_frames(s: Any, fd: Any, port: Any, tx: Any, data: Any, own: Any, packets: Any, vnet: Any) -> Any:
    """`send_frames` for a device that takes one frame per write."""
    s = by_reference(s)
    k = np.int64(0)
    while k < len(tx):
        if np.int64(tx["port"][k]) == port:
            _prepare(s, np.int64(0), tx, k, data, own, packets, vnet)
            if np.int64(writev(fd, s.vector.ctypes.data, np.int64(2))) < 0:
                problem = np.int64(errno())
                given_up = _judge(s, problem, np.int64(1))
                if given_up < 0:
                    return problem
                k -= 1 - given_up
        k += 1
    return np.int64(0)
