// @chainsafe/libp2p-yamux as the far end of a link, for tests/interop/test_links.py.
//
// The same program as yamux_go/bridge, which says how it is used. --reset-after is for that
// one only: here a stream is reset by abort().

import './promises.js'

import { createServer, connect } from 'node:net'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { yamux } from '@chainsafe/libp2p-yamux'
import { answer, dial } from './carrier.js'

const { values: options } = parseArgs({
  options: {
    role: { type: 'string' },
    carrier: { type: 'string' },
    connect: { type: 'string' },
    token: { type: 'string' },
    target: { type: 'string' },
    write: { type: 'string', default: '0' },
    'reset-after': { type: 'string' }
  }
})
const writeSize = Number(options.write)
// The library's own 16 MiB are more than the 4 MiB it stands to hold for a paused stream.
const muxers = yamux({ streamOptions: { maxStreamWindowSize: 1024 * 1024 } })()

function say (...words) {
  process.stdout.write(words.join(' ') + '\n')
}

/** Copy both ways until both are done; what breaks on one side is broken off on the other. */
function join (stream, socket) {
  let gathered = []
  let size = 0
  let least = 0 // the first bytes are a head that somebody waits for
  const send = () => {
    if (size === 0 || stream.writeStatus !== 'writable') return
    const data = Buffer.concat(gathered)
    gathered = []
    size = 0
    if (!stream.send(data)) socket.pause()
  }
  socket.on('data', data => {
    gathered.push(data)
    size += data.length
    if (size >= least) send()
    least = writeSize
  })
  socket.on('end', () => {
    send()
    stream.close().catch(() => socket.resetAndDestroy())
  })
  socket.on('error', error => stream.abort(error))
  stream.addEventListener('drain', () => socket.resume())

  stream.addEventListener('message', event => {
    if (!socket.write(event.data.subarray().slice())) stream.pause()
  })
  socket.on('drain', () => {
    if (stream.readStatus === 'paused') stream.resume()
  })
  // Not 'remoteCloseWrite': that comes before what a paused stream still holds.
  stream.addEventListener('end', () => {
    if (stream.status !== 'reset' && stream.status !== 'aborted') socket.end()
  })
  stream.addEventListener('close', event => {
    if (event.error != null) socket.resetAndDestroy()
  })
}

function toTarget (stream) {
  const [host, port] = options.target.split(':')
  join(stream, connect({ host, port: Number(port), allowHalfOpen: true, noDelay: true }))
}

function obey (muxer) {
  const commands = createInterface({ input: process.stdin })
  commands.on('line', async command => {
    try {
      if (command === 'streams') {
        say(muxer.streams.length)
        return
      } else if (command === 'ping') {
        await muxer.ping()
      } else if (command === 'goaway') {
        await muxer.close()
      }
      say('ok')
    } catch (error) {
      say('error', error.message)
    }
  })
  commands.on('close', () => process.exit(0))
}

async function asDevice () {
  const connection = await dial(options.connect, options.token, options.carrier)
  const muxer = muxers.createStreamMuxer(connection)
  muxer.addEventListener('stream', event => toTarget(event.detail))
  return [connection, muxer]
}

async function asServer () {
  const visitors = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true })
  await new Promise(resolve => visitors.listen(0, '127.0.0.1', resolve))
  const connection = await answer(options.carrier, port => {
    say('ports', port, visitors.address().port)
  })
  const muxer = muxers.createStreamMuxer(connection)
  // The control stream, which nobody reads here.
  muxer.addEventListener('stream', event => event.detail.addEventListener('message', () => {}))
  visitors.on('connection', async socket => {
    try {
      join(await muxer.createStream(), socket)
      socket.resume()
    } catch {
      socket.resetAndDestroy()
    }
  })
  return [connection, muxer]
}

const [connection, muxer] = await (options.role === 'device' ? asDevice() : asServer())
say('up')
obey(muxer)
connection.addEventListener('close', event => {
  if (event.error != null) process.stderr.write(`${event.error.message}\n`)
  process.exit(0)
})
