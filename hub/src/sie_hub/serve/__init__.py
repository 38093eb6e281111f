"""The unit that keeps what refine found and answers readers: the store, and the DNSDB API version 2.

    SIE -> stream_reader -> admission -> writer -> store <- statements <- question <- api <- doors <- reader
                                                     |_____________________ answer ______^

`admission`, `inverse_key`, `name_pattern`, `question`, `statements`, `answer` and `row_binary` do no I/O.
`engine` alone knows chDB.
"""
