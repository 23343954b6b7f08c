-- Pipebus in Wireshark: dissects what `pipebus monitor --pcapng` has captured.
--
-- The bytes of a frame are explained in proto/PROTOCOL.md, those that a capture has before each frame in README.md
-- beside this file. Who sent a frame to which topic is in its packet, so nothing is remembered but fragments.
-- It is one file, since that is how dissectors are installed.

local pipebus = Proto("pipebus", "Pipebus")

local HEADER_VERSION = 1
local HEAD_BYTES = 24
local BODY_BYTES_MAX = 262144
local CONTROL_BYTES_MAX = 4096
-- Messages that are larger are not put together.
local MESSAGE_BYTES_MAX = 64 * 1024 * 1024
-- The largest frames do not fit into a packet: so much of a fragment may be missing, at its end.
local MISSING_BYTES_MAX = 1024

-- Names and numbers, as in PROTOCOL.md.

local function from_zero(names)
    local numbered = {}
    for index, name in ipairs(names) do
        numbered[index - 1] = name
    end
    return numbered
end

local CONTROL, MESSAGE, REQUEST, REPLY, RECORD = 1, 2, 3, 4, 5
local KIND = {
    [CONTROL] = "Control", [MESSAGE] = "Message", [REQUEST] = "Request", [REPLY] = "Reply", [RECORD] = "Record",
}

local CONTINUED, MORE, FAILED, LOANED = 0x01, 0x02, 0x04, 0x08
local FLAGS_ALLOWED = {
    [CONTROL] = 0,
    [MESSAGE] = CONTINUED + MORE + LOANED,
    [REQUEST] = CONTINUED + MORE,
    [REPLY] = CONTINUED + MORE + FAILED,
    [RECORD] = 0,
}

local REGARDING = from_zero { "Connection", "Declare", "Subscription" }
local REASON = from_zero { "Version", "Forbidden", "BrokerFull", "UserFull", "TooMany", "Name", "TooLarge", "Protocol",
    "Exhausted", "Unknown", "Draining",
    "Ending" }
local FAREWELL = from_zero { "Leaving", "Shutdown", "Slow", "Protocol", "Disconnected" }
local PURPOSE = from_zero { "Publish", "Request" }
local ROLE = from_zero { "Subscribe", "Serve", "Monitor" }
local OVERFLOW = from_zero { "Block", "DropOldest", "DropNewest", "Latest", "Disconnect" }
local IDENTITY = from_zero { "Unix", "Windows" }
local FAILURE = from_zero { "NoServer", "Busy", "ServerGone", "TooMany", "Forbidden" }

-- The variants' names; what they are made of is in CONTROLS.
local CONTROL_NAMES = from_zero { "Hello", "Welcome", "Refused", "Goodbye", "Declare", "Declared", "Retract",
    "Subscribe", "Subscribed", "Unsubscribe", "Unsubscribed", "TopicInfo", "TopicGone", "SenderInfo", "SenderGone",
    "Gap", "Abort", "Ping", "Pong", "RequestFailed", "Cancel", "Consumed", "Released", "Revoked",
    "Visit", "LastCall" }

local NO_YES = from_zero { "no", "yes" }

-- What display filters can name.

local f = {
    -- What the capture says of a frame.
    version = ProtoField.uint8("pipebus.capture.version", "Version of this header"),
    header_bytes = ProtoField.uint16("pipebus.capture.header_bytes", "Bytes of this header"),
    sender = ProtoField.uint32("pipebus.sender", "Sender"),
    to = ProtoField.uint32("pipebus.to", "To client"),
    subscribers = ProtoField.uint32("pipebus.subscribers", "Instances that got it"),
    waiting = ProtoField.uint32("pipebus.waiting", "Of those, without room for it"),
    dropped = ProtoField.uint32("pipebus.dropped", "Messages dropped for it"),
    lost = ProtoField.uint64("pipebus.lost", "Frames before it that the capture lost"),
    sender_identity = ProtoField.uint32("pipebus.sender.identity", "Identity", base.DEC, IDENTITY),
    sender_uid = ProtoField.uint32("pipebus.sender.uid", "User"),
    sender_sid = ProtoField.string("pipebus.sender.sid", "Account"),
    sender_name = ProtoField.string("pipebus.sender.name", "Name"),
    topic = ProtoField.string("pipebus.topic", "Topic"),
    -- The head.
    body_bytes = ProtoField.uint32("pipebus.body_bytes", "Bytes of the body"),
    kind = ProtoField.uint8("pipebus.kind", "Kind", base.DEC, KIND),
    flags = ProtoField.uint8("pipebus.flags", "Flags", base.HEX),
    continued = ProtoField.bool("pipebus.flags.continued", "Continued", 8, nil, CONTINUED),
    more = ProtoField.bool("pipebus.flags.more", "More", 8, nil, MORE),
    failed = ProtoField.bool("pipebus.flags.failed", "Failed", 8, nil, FAILED),
    loaned = ProtoField.bool("pipebus.flags.loaned", "Loaned", 8, nil, LOANED),
    metadata_bytes = ProtoField.uint16("pipebus.metadata_bytes", "Bytes of metadata"),
    topic_id = ProtoField.uint32("pipebus.topic_id", "Topic id"),
    head_sender = ProtoField.uint32("pipebus.head.sender", "Sender"),
    sequence = ProtoField.uint64("pipebus.sequence", "Sequence number"),
    -- Metadata.
    has_call = ProtoField.uint8("pipebus.has_call", "Has a call", base.DEC, NO_YES),
    requester = ProtoField.uint32("pipebus.requester", "Requester"),
    correlation = ProtoField.uint64("pipebus.correlation", "Correlation"),
    headers = ProtoField.uint64("pipebus.headers", "Headers"),
    header_name = ProtoField.string("pipebus.header.name", "Name"),
    header_value = ProtoField.string("pipebus.header.value", "Value"),
    -- The payload.
    error = ProtoField.string("pipebus.error", "Why the request failed"),
    fragment = ProtoField.framenum("pipebus.fragment", "Fragment"),
    reassembled_in = ProtoField.framenum("pipebus.reassembled_in", "Message put together in"),
    reassembled_bytes = ProtoField.uint32("pipebus.reassembled_bytes", "Bytes of the payload"),
    -- Control frames.
    control = ProtoField.uint32("pipebus.control", "Control", base.DEC, CONTROL_NAMES),
    protocol_version = ProtoField.uint16("pipebus.control.version", "Version of the protocol"),
    name = ProtoField.string("pipebus.control.name", "Name"),
    client = ProtoField.uint32("pipebus.control.client", "Client"),
    broker_version = ProtoField.string("pipebus.control.broker_version", "Version of the broker"),
    message_bytes_max = ProtoField.uint64("pipebus.control.message_bytes_max", "Bytes of the largest message"),
    regarding = ProtoField.uint32("pipebus.control.regarding", "Regarding", base.DEC, REGARDING),
    reason = ProtoField.uint32("pipebus.control.reason", "Reason", base.DEC, REASON),
    text = ProtoField.string("pipebus.control.text", "Text"),
    cause = ProtoField.uint32("pipebus.control.cause", "Cause", base.DEC, FAREWELL),
    token = ProtoField.uint64("pipebus.control.token", "Token"),
    purpose = ProtoField.uint32("pipebus.control.purpose", "Purpose", base.DEC, PURPOSE),
    subscription = ProtoField.uint32("pipebus.control.subscription", "Subscription"),
    pattern = ProtoField.string("pipebus.control.pattern", "Pattern"),
    role = ProtoField.uint32("pipebus.control.role", "Role", base.DEC, ROLE),
    overflow = ProtoField.uint32("pipebus.control.overflow", "Overflow", base.DEC, OVERFLOW),
    about = ProtoField.uint32("pipebus.control.sender", "Sender"),
    identity = ProtoField.uint32("pipebus.control.identity", "Identity", base.DEC, IDENTITY),
    uid = ProtoField.uint32("pipebus.control.uid", "User"),
    sid = ProtoField.string("pipebus.control.sid", "Account"),
    messages = ProtoField.uint64("pipebus.control.messages", "Messages"),
    failure = ProtoField.uint32("pipebus.control.failure", "Failure", base.DEC, FAILURE),
    last = ProtoField.uint64("pipebus.control.sequence", "Sequence number"),
    count = ProtoField.uint64("pipebus.control.count", "Count"),
    capture_bytes = ProtoField.uint32("pipebus.control.watch.capture_bytes", "Bytes of each body"),
    has_watched = ProtoField.uint8("pipebus.control.watch.of_one", "Of one sender", base.DEC, NO_YES),
    watched = ProtoField.uint32("pipebus.control.watch.sender", "Sender"),
    bytes_min = ProtoField.uint32("pipebus.control.watch.bytes_min", "Bytes of a body, at least"),
    bytes_max = ProtoField.uint32("pipebus.control.watch.bytes_max", "Bytes of a body, at most"),
    kinds = ProtoField.uint8("pipebus.control.watch.kinds", "Kinds", base.HEX),
    -- Records.
    observed_time = ProtoField.uint64("pipebus.record.time", "Nanoseconds since 1970"),
    observed_body = ProtoField.uint32("pipebus.record.body_bytes", "Bytes of the body"),
    observed_kind = ProtoField.uint8("pipebus.record.kind", "Kind", base.DEC, KIND),
    observed_flags = ProtoField.uint8("pipebus.record.flags", "Flags", base.HEX),
    observed_metadata = ProtoField.uint16("pipebus.record.metadata_bytes", "Bytes of metadata"),
    observed_subscribers = ProtoField.uint32("pipebus.record.subscribers", "Instances that got it"),
    observed_waiting = ProtoField.uint32("pipebus.record.waiting", "Of those, without room for it"),
    observed_dropped = ProtoField.uint32("pipebus.record.dropped", "Messages dropped for it"),
    observed_to = ProtoField.uint32("pipebus.record.to", "To client"),
}
pipebus.fields = f

local GROUP, SEVERITY = expert.group, expert.severity
local e = {
    malformed = ProtoExpert.new("pipebus.malformed", "Malformed", GROUP.MALFORMED, SEVERITY.ERROR),
    unknown = ProtoExpert.new("pipebus.unknown", "Of a later version", GROUP.UNDECODED, SEVERITY.WARN),
    cut = ProtoExpert.new("pipebus.cut", "Not captured whole", GROUP.UNDECODED, SEVERITY.NOTE),
    unfinished = ProtoExpert.new("pipebus.unfinished", "Not put together", GROUP.REASSEMBLE, SEVERITY.NOTE),
    lost = ProtoExpert.new("pipebus.capture_lost", "The capture lost frames", GROUP.SEQUENCE, SEVERITY.WARN),
    dropped = ProtoExpert.new("pipebus.was_dropped", "Messages were dropped", GROUP.SEQUENCE, SEVERITY.WARN),
    failed = ProtoExpert.new("pipebus.has_failed", "Refused or failed", GROUP.RESPONSE_CODE, SEVERITY.NOTE),
}
pipebus.experts = e

-- Reading: a cursor goes over bytes that end somewhere, and reports what is malformed or was not captured.

local Cursor = {}
Cursor.__index = Cursor

local function cursor_over(tvb, start, finish)
    return setmetatable({ tvb = tvb, at = start, finish = finish }, Cursor)
end

local function report(kind, text)
    error({ expert = kind, text = text })
end

function Cursor:take(count, what)
    if count > self.finish - self.at then
        report(e.malformed, ("%s needs %.0f bytes, and there are %d"):format(what, count, self.finish - self.at))
    end
    if self.at + count > self.tvb:len() then
        report(e.cut, ("the capture ends before the end of %s"):format(what))
    end
    local range = self.tvb(self.at, count)
    self.at = self.at + count
    return range
end

function Cursor:check_end(what)
    if self.at ~= self.finish then
        report(e.malformed, ("%d bytes are left over after %s"):format(self.finish - self.at, what))
    end
end

-- Calls `dissect`, and puts into the tree what it reports. Returns whether that was nothing.
local function guarded(tree, dissect)
    local fine, fault = pcall(dissect)
    if not fine then
        if type(fault) ~= "table" then
            error(fault, 0)
        end
        tree:add_proto_expert_info(fault.expert, fault.text)
    end
    return fine
end

-- The forms that characters have in UTF-8.
local UTF8 = {
    "^[\0-\127]+", "^[\194-\223][\128-\191]", "^\224[\160-\191][\128-\191]",
    "^[\225-\236\238\239][\128-\191][\128-\191]",
    "^\237[\128-\159][\128-\191]", "^\240[\144-\191][\128-\191][\128-\191]",
    "^[\241-\243][\128-\191][\128-\191][\128-\191]", "^\244[\128-\143][\128-\191][\128-\191]",
}

local function is_utf8(raw)
    local at = 1
    while at <= #raw do
        local last
        for _, form in ipairs(UTF8) do
            last = last or select(2, raw:find(form, at))
        end
        if not last then
            return false
        end
        at = last + 1
    end
    return true
end

-- Readers: each takes its field's bytes from the cursor, puts them into the tree, and keeps the value under its key.

local function number(bytes, key)
    return function(cursor, tree, values)
        local range = cursor:take(bytes, key)
        tree:add_le(f[key], range)
        values[key] = bytes == 8 and range:le_uint64() or range:le_uint()
    end
end

local function u8(key) return number(1, key) end
local function u16(key) return number(2, key) end
local function u32(key) return number(4, key) end
local function u64(key) return number(8, key) end

local function text(key)
    return function(cursor, tree, values)
        local bytes = cursor:take(8, key):le_uint64():tonumber()
        local range = cursor:take(bytes, key)
        local value = bytes > 0 and range:string(ENC_UTF_8) or ""
        local item = tree:add(f[key], range, value)
        if bytes > 0 and not is_utf8(range:raw()) then
            item:add_proto_expert_info(e.malformed, "this text is not UTF-8")
        end
        values[key] = value
    end
end

-- Without characters that control terminals, for where Wireshark does not see to that.
local function harmless(value)
    return (value:gsub("%c", "?"):gsub("\194[\128-\159]", "?"))
end

local function read_all(readers, cursor, tree, values)
    for _, read in ipairs(readers) do
        read(cursor, tree, values)
    end
end

-- An enum: its number, and what its variants have in them.
local function enum(key, names, fields)
    return function(cursor, tree, values)
        local range = cursor:take(4, key)
        local chosen = range:le_uint()
        local item = tree:add_le(f[key], range)
        values[key] = names[chosen] or tostring(chosen)
        if not names[chosen] then
            item:add_proto_expert_info(e.unknown, ("%d is not in this version of the protocol"):format(chosen))
        end
        read_all(fields and fields[chosen] or {}, cursor, item, values)
    end
end

-- Whether there is something, and that.
local function option(key, fields)
    return function(cursor, tree, values)
        u8(key)(cursor, tree, values)
        if values[key] > 1 then
            report(e.malformed, ("%s is neither 0 nor 1"):format(key))
        end
        read_all(values[key] == 1 and fields or {}, cursor, tree, values)
    end
end

local function list_of_u64(key)
    return function(cursor, tree, values)
        u64("count")(cursor, tree, values)
        for _ = 1, values.count:tonumber() do
            u64(key)(cursor, tree, values)
        end
    end
end

-- Metadata.

local function headers(cursor, tree, values)
    u64("headers")(cursor, tree, values)
    for _ = 1, values.headers:tonumber() do
        local header = tree:add(cursor.tvb(cursor.at, 0), "Header")
        local start = cursor.at
        read_all({ text "header_name", text "header_value" }, cursor, header, values)
        header:set_len(cursor.at - start)
        header:set_text(harmless(("%s: %s"):format(values.header_name, values.header_value)))
    end
end

local METADATA = { option("has_call", { u32 "requester", u64 "correlation" }), headers }

-- Control frames: how each reads in the list of packets, and its fields.

local function variant(info, ...)
    return { info = info, fields = { ... } }
end

local WATCH = {
    u32 "capture_bytes", option("has_watched", { u32 "watched" }), u32 "bytes_min", u32 "bytes_max", u8 "kinds",
}

local CONTROLS = from_zero {
    variant("hello from {name} (version {protocol_version})", u16 "protocol_version", text "name"),
    variant("welcome as client {client} (broker {broker_version})", u32 "client", text "broker_version",
        u64 "message_bytes_max"),
    variant("refused {regarding} ({reason}): {text}",
        enum("regarding", REGARDING, { [1] = { u32 "token" }, [2] = { u32 "subscription" } }),
        enum("reason", REASON), text "text"),
    variant("goodbye ({cause})", enum("cause", FAREWELL)),
    variant("declare {topic} to {purpose} as {token}", u32 "token", text "topic", enum("purpose", PURPOSE)),
    variant("declared {token} is topic {topic_id}", u32 "token", u32 "topic_id"),
    variant("retract topic {topic_id}", u32 "topic_id"),
    variant("{role} {pattern} ({overflow}) as {subscription}", u32 "subscription", text "pattern",
        enum("role", ROLE, { [2] = WATCH }), enum("overflow", OVERFLOW)),
    variant("subscribed {subscription}", u32 "subscription"),
    variant("unsubscribe {subscription}", u32 "subscription"),
    variant("unsubscribed {subscription}", u32 "subscription"),
    variant("topic {topic_id} is {topic}", u32 "topic_id", text "topic"),
    variant("topic {topic_id} is gone", u32 "topic_id"),
    variant("sender {about} is {name}", u32 "about",
        enum("identity", IDENTITY, { [0] = { u32 "uid" }, [1] = { text "sid" } }), text "name"),
    variant("sender {about} is gone", u32 "about"),
    variant("gap of {messages} on topic {topic_id}", u32 "topic_id", u64 "messages"),
    variant("abort of what {about} was sending", u32 "about"),
    variant("ping {token}", u64 "token"),
    variant("pong {token}", u64 "token"),
    variant("request {correlation} failed ({failure})", u64 "correlation", enum("failure", FAILURE)),
    variant("cancel request {correlation}", u64 "correlation"),
    variant("consumed messages of {about} up to {last}", u32 "about", u64 "last"),
    variant("released {count} messages", list_of_u64 "last"),
    variant("revoked the right to {purpose} to topic {topic_id}: {text}", u32 "topic_id", enum("purpose", PURPOSE),
        text "text"),
    variant("visit of {name} (version {protocol_version})", u16 "protocol_version", text "name"),
    variant("last call"),
}
-- Those that say no.
local REFUSED, REQUEST_FAILED, REVOKED = 2, 19, 23

local function control(cursor, tree, about)
    local values = {}
    about.info = "control"
    local range = cursor:take(4, "the variant")
    local tag = range:le_uint()
    local item = tree:add_le(f.control, range)
    local chosen = CONTROLS[tag]
    if not chosen then
        about.info = ("control %d"):format(tag)
        report(e.unknown, ("control variant %d is not in this version of the protocol"):format(tag))
    end
    about.info = CONTROL_NAMES[tag]
    read_all(chosen.fields, cursor, tree, values)
    cursor:check_end("the control frame")
    about.info = harmless(chosen.info:gsub("{([%w_]+)}", function(key) return tostring(values[key]) end))
    if tag == REFUSED or tag == REQUEST_FAILED or tag == REVOKED then
        item:add_proto_expert_info(e.failed, about.info)
    end
end

-- What the capture says of a frame; see README.md.

local HEADER = {
    u32 "sender", u32 "to", u32 "subscribers", u32 "waiting", u32 "dropped", u64 "lost",
    enum("sender_identity", IDENTITY, { [0] = { u32 "sender_uid" }, [1] = { text "sender_sid" } }),
    text "sender_name", text "topic",
}

local function capture_header(tvb, tree)
    local values = {}
    local cursor = cursor_over(tvb, 0, tvb:reported_len())
    u8("version")(cursor, tree, values)
    if values.version ~= HEADER_VERSION then
        report(e.malformed, ("this dissector does not know version %d of captures"):format(values.version))
    end
    cursor:take(1, "a byte of no meaning")
    u16("header_bytes")(cursor, tree, values)
    cursor.finish = math.min(cursor.finish, values.header_bytes)
    read_all(HEADER, cursor, tree, values)
    cursor:check_end("the header")
    return values
end

-- The head.

local HEAD = {
    u32 "body_bytes", u8 "kind", u8 "flags", u16 "metadata_bytes", u32 "topic_id", u32 "head_sender", u64 "sequence",
}

local function has(flags, flag)
    return math.floor(flags / flag) % 2 == 1
end

local function are_allowed(flags, allowed)
    for bit = 0, 7 do
        if has(flags, 2 ^ bit) and not has(allowed, 2 ^ bit) then
            return false
        end
    end
    return true
end

-- What nobody may send, as the broker sees it.
local function faults_of(head)
    local faults = {}
    local function unless(fine, fault)
        if not fine then
            faults[#faults + 1] = fault
        end
    end
    local is_control, begins = head.kind == CONTROL, not has(head.flags, CONTINUED)
    unless(KIND[head.kind], "there is no such kind")
    unless(head.body_bytes <= (is_control and CONTROL_BYTES_MAX or BODY_BYTES_MAX), "the body is longer than it may be")
    unless(are_allowed(head.flags, FLAGS_ALLOWED[head.kind] or 0), "these flags do not fit the kind")
    unless(head.metadata_bytes <= head.body_bytes, "the metadata is longer than the body")
    local has_call = head.kind == REQUEST or head.kind == REPLY
    unless(head.metadata_bytes == 0 or begins and (has_call or head.kind == MESSAGE), "there may be no metadata here")
    unless(head.metadata_bytes > 0 or not begins or not has_call, "the call is missing")
    unless(not is_control or head.topic_id == 0 and head.head_sender == 0 and head.sequence == UInt64(0),
        "a control frame has a topic, a sender or a sequence number")
    return faults
end

local function dissect_head(tvb, start, tree)
    local head = {}
    local cursor = cursor_over(tvb, start, tvb:reported_len())
    read_all(HEAD, cursor, tree, head)
    local flags = tvb(start + 5, 1)
    for _, flag in ipairs { f.continued, f.more, f.failed, f.loaned } do
        tree:add(flag, flags)
    end
    local faults = faults_of(head)
    if cursor.finish ~= cursor.at + head.body_bytes then
        faults[#faults + 1] = ("the body has %d bytes"):format(cursor.finish - cursor.at)
    end
    for _, fault in ipairs(faults) do
        tree:add_proto_expert_info(e.malformed, fault)
    end
    return head, #faults == 0
end

-- Messages of several fragments. Packets are first seen in their order, and then in any.

local unfinished, message_of = {}, {}

function pipebus.init()
    -- By sender, and by the number of each packet.
    unfinished, message_of = {}, {}
end

local function give_up(message, why)
    message.fault = message.fault or why
    message.pieces = {}
end

-- Sees a fragment for the first time, with what was captured of its payload and how much was not.
local function remember(packet, head, piece, missing)
    local sender, message = head.head_sender, nil
    if has(head.flags, CONTINUED) then
        message = unfinished[sender]
    end
    if not message or message.sequence ~= tostring(head.sequence) then
        message = { sequence = tostring(head.sequence), packets = {}, pieces = {}, bytes = 0, missing = 0 }
        if has(head.flags, CONTINUED) then
            give_up(message, "the capture does not have its beginning")
        end
        unfinished[sender] = message
    end
    message.packets[#message.packets + 1] = packet
    message_of[packet] = message
    message.bytes = message.bytes + #piece + missing
    message.missing = message.missing + missing
    if missing > MISSING_BYTES_MAX then
        give_up(message, ("packet %d was not captured whole"):format(packet))
    elseif message.bytes > MESSAGE_BYTES_MAX then
        give_up(message, "it is too large")
    elseif not message.fault then
        message.pieces[#message.pieces + 1] = piece .. ("\0"):rep(missing)
    end
    if not has(head.flags, MORE) then
        message.last = packet
        message.payload = not message.fault and table.concat(message.pieces) or nil
        message.pieces = {}
        unfinished[sender] = nil
    end
end

local function forget_unfinished()
    for _, message in pairs(unfinished) do
        give_up(message, "the capture lost frames in between")
    end
end

-- Returns the payload if this packet is the message's last and all is there.
local function put_together(packet, visited, tree)
    local message = message_of[packet]
    if message.fault then
        tree:add_proto_expert_info(e.unfinished, message.fault)
    elseif message.last and packet ~= message.last then
        tree:add(f.reassembled_in, message.last):set_generated()
    elseif not message.last and visited then
        tree:add_proto_expert_info(e.unfinished, "the capture does not have its end")
    end
    if message.fault or packet ~= message.last then
        return nil
    end
    local subtree = tree:add(f.reassembled_bytes, #message.payload):set_generated()
    for _, number_of_packet in ipairs(message.packets) do
        subtree:add(f.fragment, number_of_packet):set_generated()
    end
    if message.missing > 0 then
        local text = ("%d bytes were not captured; here they are zeros"):format(message.missing)
        subtree:add_proto_expert_info(e.cut, text)
    end
    return ByteArray.new(message.payload, true):tvb("Message")
end

-- The body.

local json = Dissector.get("json")
local data = Dissector.get("data")

local function dissect_payload(payload, missing, head, topic, pinfo, root, tree)
    if payload:len() == 0 then
        return
    elseif has(head.flags, FAILED) then
        tree:add(f.error, payload(), payload():string(ENC_UTF_8))
    elseif topic:find("^%$bus/") and missing == 0 then
        json:call(payload, pinfo, root)
    else
        data:call(payload, pinfo, root)
    end
end

local function dissect_message(tvb, start, head, about, pinfo, root, tree)
    local finish = start + head.body_bytes
    local behind_metadata = start + head.metadata_bytes
    if head.metadata_bytes > 0 then
        local subtree = tree:add(tvb(start, math.min(head.metadata_bytes, tvb:len() - start)), "Metadata")
        guarded(subtree, function()
            local cursor = cursor_over(tvb, start, behind_metadata)
            read_all(METADATA, cursor, subtree, about)
            cursor:check_end("the metadata")
        end)
    end
    local captured = math.max(math.min(finish, tvb:len()) - behind_metadata, 0)
    local missing = finish - behind_metadata - captured
    local payload = captured > 0 and tvb(behind_metadata, captured):tvb() or nil
    if missing > 0 then
        tree:add_proto_expert_info(e.cut, ("%d bytes of the payload were not captured"):format(missing))
    end
    if has(head.flags, CONTINUED) or has(head.flags, MORE) then
        if not pinfo.visited then
            remember(pinfo.number, head, payload and payload:raw() or "", missing)
        end
        local together = put_together(pinfo.number, pinfo.visited, tree)
        if not together and payload then
            data:call(payload, pinfo, root)
        end
        payload, missing = together, message_of[pinfo.number].missing
    end
    if payload then
        dissect_payload(payload, missing, head, about.topic, pinfo, root, tree)
    end
end

-- A record, of which a monitor gets many, and nobody captures any.
local OBSERVED = {
    u64 "observed_time", u32 "observed_body", u8 "observed_kind", u8 "observed_flags", u16 "observed_metadata",
    u32 "observed_subscribers", u32 "observed_waiting", u32 "observed_dropped", u32 "observed_to",
}

local function dissect_record(tvb, start, pinfo, root, tree)
    local cursor = cursor_over(tvb, start, tvb:reported_len())
    read_all(OBSERVED, cursor, tree, {})
    if cursor.at < tvb:len() then
        data:call(tvb(cursor.at):tvb(), pinfo, root)
    end
end

-- A packet.

local PART = from_zero { "", ", last fragment", ", first fragment", ", fragment" }

local function message_info(head, about)
    local bytes = head.body_bytes - head.metadata_bytes
    local info = ("%s %s #%s, %d bytes"):format(KIND[head.kind], about.topic, head.sequence, bytes)
    if about.requester then
        info = ("%s, call %d/%s"):format(info, about.requester, about.correlation)
    end
    info = info .. PART[head.flags % 4]
    return has(head.flags, FAILED) and info .. ", failed" or info
end

local function set_columns(pinfo, about, head)
    pinfo.cols.protocol = "Pipebus"
    pinfo.cols.src = about.sender == 0 and "broker" or harmless(("%d %s"):format(about.sender, about.sender_name))
    if about.to ~= 0 then
        pinfo.cols.dst = ("%d"):format(about.to)
    elseif head.kind == CONTROL then
        pinfo.cols.dst = "broker"
    else
        pinfo.cols.dst = ("%d subscribers"):format(about.subscribers)
    end
    pinfo.cols.info = about.info
end

local function note_losses(tree, about)
    if about.dropped > 0 then
        tree:add_proto_expert_info(e.dropped, ("%d messages were dropped for it"):format(about.dropped))
    end
    if about.lost > UInt64(0) then
        tree:add_proto_expert_info(e.lost, "the capture lost frames before this one")
    end
end

local function dissect_frame(tvb, pinfo, root, tree)
    local subtree = tree:add(tvb(), "Capture")
    local about = capture_header(tvb, subtree)
    local start = about.header_bytes
    subtree:set_len(start)
    note_losses(subtree, about)
    if not pinfo.visited and about.lost > UInt64(0) then
        forget_unfinished()
    end
    local head_tree = tree:add(tvb(start, math.min(HEAD_BYTES, tvb:len() - start)), "Head")
    local head, fine = dissect_head(tvb, start, head_tree)
    if not fine then
        about.info = "malformed head"
        return set_columns(pinfo, about, head)
    end
    local body = start + HEAD_BYTES
    if head.kind == CONTROL then
        local subtree = tree:add(tvb(body, tvb:len() - body), "Control")
        guarded(subtree, function() control(cursor_over(tvb, body, tvb:reported_len()), subtree, about) end)
    elseif head.kind == RECORD then
        local subtree = tree:add(tvb(body, tvb:len() - body), "Record")
        guarded(subtree, function() dissect_record(tvb, body, pinfo, root, subtree) end)
    else
        dissect_message(tvb, body, head, about, pinfo, root, tree)
    end
    about.info = about.info or message_info(head, about)
    tree:append_text((", from %d, %s"):format(about.sender, about.info))
    set_columns(pinfo, about, head)
end

function pipebus.dissector(tvb, pinfo, root)
    local tree = root:add(pipebus, tvb())
    guarded(tree, function() dissect_frame(tvb, pinfo, root, tree) end)
    return tvb:len()
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, pipebus)
