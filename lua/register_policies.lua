-- register_policies.lua: give a policies document its generation; the document registered last is the one that wins.
--
-- Atomic. A document of an admin is registered once per request: a repeat is answered with what came of it the first time.
-- A file that is the newest already is answered its generation, so that many enforcers with one file share it.
--
-- KEYS[1]    policies: the newest registration, and the last document of an admin.
-- KEYS[2]    files: versions of files by their generation, the newest 100.
-- KEYS[3]    request: what came of this request; only of `publish`.
-- ARGV[1]    occasion: `start` of an enforcer, `change` of what it goes by, `publish` by an admin.
-- ARGV[2]    version: of the document.
-- ARGV[3]    document: its text; empty for a file, whose text stays where it is.
-- ARGV[4]    least_generation: a new generation is above it; what the caller knew before this Redis was emptied.
-- ARGV[5]    actor: who publishes; empty for an enforcer.
-- ARGV[6]    reason: of the actor.
-- ARGV[7]    channel: where the new generation is published.
-- ARGV[8]    keep_ms: how long a request is remembered.
--
-- Fails with REQUEST when the request was another change.
-- Returns { generation, since_us, version, is_document, is_repeat }: what the caller goes by from now on. That is another
-- version than it asked for when it starts with a file that was registered before an admin published (is_document is 1 then,
-- and the text is in `policies`). since_us: time of the registration, microseconds since the epoch.
--
-- Key types: policies hash (generation, version, since_us; held_ms: when an enforcer that goes by it was last seen;
-- document, document_version, document_generation, document_since_us, actor, reason). files sorted set. request string.

local MOST_FILES = 100

local call, format, max = redis.call, string.format, math.max

local policies_key, files_key, request_key = KEYS[1], KEYS[2], KEYS[3]
local occasion, version, document, least_generation = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local actor, reason, channel, keep_ms = ARGV[5], ARGV[6], ARGV[7], ARGV[8]

if occasion == 'publish' then
  local stored = call('GET', request_key)
  if stored then
    local generation, since_us, first_version = string.match(stored, '^policies (%d+) (%d+) (%S+)$')
    if not generation or first_version ~= version then
      return redis.error_reply('REQUEST this request id was used for another kind of change')
    end
    return { tonumber(generation), tonumber(since_us), first_version, 1, 1 }
  end
end

local stored = call('HMGET', policies_key, 'generation', 'since_us', 'version', 'document_generation', 'document_since_us',
  'document_version')
local newest, newest_since_us, newest_version = tonumber(stored[1]) or 0, tonumber(stored[2]), stored[3]
local published, published_since_us, published_version = tonumber(stored[4]) or 0, tonumber(stored[5]), stored[6]

if occasion ~= 'publish' and newest_version == version and newest >= least_generation then
  if document == '' then
    call('ZADD', files_key, newest, version)
  end
  return { newest, newest_since_us, version, document ~= '' and 1 or 0, 0 }
end
if occasion == 'start' then
  local registered = call('ZSCORE', files_key, version)
  if registered and tonumber(registered) < published then
    return { published, published_since_us, published_version, 1, 0 }
  end
end

local time = call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = math.floor(now_us / 1000)
local generation = max(newest, least_generation) + 1
local generation_text, since_text = format('%.0f', generation), format('%.0f', now_us)
call('HSET', policies_key, 'generation', generation_text, 'version', version, 'since_us', since_text,
  'held_ms', format('%.0f', now_ms))
if document == '' then
  call('ZADD', files_key, generation, version)
  call('ZREMRANGEBYRANK', files_key, 0, -1 - MOST_FILES)
else
  call('HSET', policies_key, 'document', document, 'document_version', version, 'document_generation', generation_text,
    'document_since_us', since_text, 'actor', actor, 'reason', reason)
end
if occasion == 'publish' then
  call('SET', request_key, format('policies %s %s %s', generation_text, since_text, version), 'PX', keep_ms)
end
call('PUBLISH', channel, format('{"generation":%s}', generation_text))
return { generation, now_us, version, document ~= '' and 1 or 0, 0 }
