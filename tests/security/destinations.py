"""Destinations that nothing of ours may ever dial: this machine, its networks, metadata services, in every disguise."""

# Literal addresses, each from one row of the deny list or one disguise of it.
HOSTILE_V4 = [
    "127.0.0.1",
    "127.0.0.53",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "100.64.0.1",
    "100.100.100.200",  # Alibaba's metadata
    "169.254.0.1",
    "169.254.169.254",  # AWS, GCP, Azure
    "169.254.170.2",  # ECS
    "168.63.129.16",  # Azure's host
    "192.0.0.8",
    "192.0.0.192",  # Oracle's metadata
    "192.0.2.1",
    "198.51.100.7",
    "203.0.113.9",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
]
HOSTILE_V6 = [
    "::",
    "::1",
    "::127.0.0.1",  # IPv4-compatible
    "::169.254.169.254",
    "::ffff:127.0.0.1",  # mapped
    "::ffff:7f00:1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",  # translated
    "64:ff9b::7f00:1",  # NAT64 of loopback
    "64:ff9b::a9fe:a9fe",  # NAT64 of metadata
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::1",  # Teredo
    "2001:0:7f00:1::",
    "2001:0:a9fe:a9fe::",
    "2001:2::1",  # benchmarks
    "2001:10::1",  # ORCHID
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of loopback
    "2002:a9fe:a9fe::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # AWS metadata
    "fd20:ce::254",  # GCP metadata
    "fe80::1",
    "fe80::a9fe:a9fe",
    "fec0::1",
    "ff02::1",
]
# Names and spellings that end at this host or at nobody's.
HOSTILE_NAMES = [
    "localhost",
    "LOCALHOST",
    "localhost.",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "0",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "2130706433",
    "0x7f.1",
    "127.0.0.1:443#@clinic.example",
    "2852039166",  # metadata in decimal
    "0xa9fea9fe",
    "[::1%25lo]",
    "[fe80::1%25eth0]",
    "\uff11\uff12\uff17.0.0.1",  # full width
    "\u2460\u2461\u2466.0.0.1",  # circled
    "127\u30020\u30020\u30021",  # ideographic full stops
    "user@127.0.0.1",
    "clinic.example@127.0.0.1",
    "127.0.0.1\\@clinic.example",
]
VECTORS = [f"https://{a}/" for a in HOSTILE_V4] + [f"https://[{a}]/" for a in HOSTILE_V6]
VECTORS += [f"https://{a}/" for a in HOSTILE_NAMES]
