"""The unit that turns containers of transactions into de-duplicated records of who said what."""
