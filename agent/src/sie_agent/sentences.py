"""What became of a packet or message, in words for somebody who has to judge it without being an engineer.

One sentence for each outcome that the recorder counts, by the counter's name; a test holds the two together.
`sie-agent explain` shows them, and the reference of the metrics lists them.
"""

from typing import Final

SENTENCES: Final[dict[str, str]] = {
    "packets_passed": (
        "It carries a part of a message, or only keeps a connection going; nothing of it is recorded by "
        "itself."
    ),
    "packets_waiting": (
        "It is a piece of something larger. It is held in memory until the other pieces have come, or "
        "until they no longer can."
    ),
    "packets_filtered_direction": (
        "Not recorded: it does not pass between a listed resolver and a server that the resolver asks. "
        "Traffic of the resolver's users ends here."
    ),
    "packets_filtered_both_listed": (
        "Not recorded: both ends are listed as resolvers, so it is a user inside a listed prefix, or one "
        "resolver asking another."
    ),
    "packets_filtered_port": "Not recorded: it does not go to a server's port 53, nor come from one.",
    "packets_filtered_protocol": "Not recorded: it is neither DNS over UDP or TCP nor an error about it.",
    "packets_rejected_truncated": "Not recorded: the capture kept only its beginning.",
    "packets_rejected_malformed": "Not recorded: its headers contradict its length or each other.",
    "packets_rejected_fragment": (
        "Not recorded: it is a piece of a mirror's packet, which is not put together: give the mirror's "
        "path room for more than it mirrors."
    ),
    "packets_rejected_overlap": (
        "Not recorded: it contradicts what came before of its datagram or its connection."
    ),
    "packets_rejected_out_of_step": (
        "Not recorded: it is from the middle of a connection whose beginning was not seen."
    ),
    "packets_filtered_no_data": (
        "Nothing to record: it opens, acknowledges or ends a connection to a server, or is an error that "
        "quotes too little to tell what was asked."
    ),
    "packets_filtered_retransmitted": "Nothing to record: all that it holds had come before.",
    "packets_lost_time": "Not recorded: the other pieces of its datagram did not come within 30 seconds.",
    "packets_lost_gap": "Not recorded: what comes before it in its connection was not captured.",
    "packets_lost_unfinished": "Not recorded: its connection ended in the middle of a message.",
    "packets_lost_room": "Not recorded: so much waited to be put together that there was no room.",
    "packets_rejected_linktype": (
        "Not recorded: it was captured on a kind of network that the sensor cannot read."
    ),
    "dnstap_frames_passed": (
        "The resolver tells of a question that it asked a server, or of the answer; the message is judged "
        "next."
    ),
    "dnstap_frames_filtered_auth": (
        "Not recorded: a server tells of those that ask it. Nothing but the kind was looked at."
    ),
    "dnstap_frames_filtered_client": (
        "Not recorded: the resolver tells of its users. Nothing but the kind was looked at."
    ),
    "dnstap_frames_filtered_forwarder": (
        "Not recorded: the resolver had another one look up for it. Nothing but the kind was looked at."
    ),
    "dnstap_frames_filtered_stub": (
        "Not recorded: a user's own machine tells of its look-ups. Nothing but the kind was looked at."
    ),
    "dnstap_frames_filtered_tool": (
        "Not recorded: a tool tells of its look-ups. Nothing but the kind was looked at."
    ),
    "dnstap_frames_filtered_update": (
        "Not recorded: it tells of changes to a zone. Nothing but the kind was looked at."
    ),
    "dnstap_frames_filtered_other": (
        "Not recorded: it is of a kind that this sensor does not know. Nothing but the kind was looked at."
    ),
    "dnstap_frames_filtered_encrypted": (
        "Not recorded: resolver and server encrypted what they said, so nobody on the way could read it."
    ),
    "dnstap_frames_filtered_port": "Not recorded: the server was not asked at port 53.",
    "dnstap_frames_filtered_both_listed": (
        "Not recorded: the server is listed as a resolver, so it is one resolver asking another."
    ),
    "dnstap_frames_rejected_malformed": "Not recorded: it is no dnstap message.",
    "dnstap_frames_rejected_incomplete": (
        "Not recorded: it lacks its message, that one's time, its transport or the server's address."
    ),
    "dnstap_frames_rejected_time": (
        "Not recorded: its time is in the future, or more than a day ago; one of the two clocks is wrong."
    ),
    "messages_recorded": "Recorded, in a transaction of a query and its response, or of either alone.",
    "transactions_pending": (
        "A query of the resolver that waits for its response; it will be recorded with it, or as unanswered."
    ),
    "messages_filtered_direction": (
        "Not recorded: a question to the resolver, or an answer by it. That is what its users see, and no "
        "business of the exchange."
    ),
    "messages_filtered_opcode": (
        "Not recorded: it is no ordinary look-up but an update or a notification of a zone."
    ),
    "messages_filtered_rd": (
        "Not recorded: it asks for recursion (RD), as users and forwarders do, and a resolver that asks "
        "servers does not."
    ),
    "messages_filtered_qtype": "Not recorded: it transfers a whole zone or negotiates a key.",
    "messages_filtered_local_zone": (
        "Not recorded: a name in it lies in a zone that is kept out, configured or without a place in the "
        "public DNS."
    ),
    "messages_filtered_qname_regex": (
        "Not recorded: the name looked up matches the expression that is kept out."
    ),
    "messages_filtered_scope": "Not recorded: the server has a private, link-local or loopback address.",
    "messages_rejected_malformed": "Not recorded: it is no whole DNS message.",
}

TRANSACTIONS: Final[dict[str, str]] = {
    "query_response": "a query and its response",
    "unanswered_query": "a query without a response",
    "unsolicited_response": "a response without a query",
    "icmp": "an error from the network about a query",
}
"""What a transaction of each type is."""


def markdown() -> str:
    """The reference table of outcomes; docs hold it verbatim and a test compares."""
    lines = ["| outcome | what it means |", "|---|---|"]
    lines += [f"| `{counter}` | {sentence} |" for counter, sentence in SENTENCES.items()]
    return "\n".join(lines) + "\n"
