// The handshake of docs/protocol.md, from both sides. What comes out is a Duplex stream,
// wrapped as the kind of connection that libp2p's muxers take.

import { createServer, request } from 'node:http'
import { defaultLogger } from '@libp2p/logger'
import { AbstractMessageStream } from '@libp2p/utils'
import { WebSocket, WebSocketServer, createWebSocketStream } from 'ws'

const PATH = '/_proxy/link'
const SUBPROTOCOL = 'proxy-engine.yamux'
const RAW_UPGRADE = 'proxy-engine-yamux'
const AGREED = ['Proxy-Engine-Version: 1', 'Proxy-Engine-Window: 262144']

/** A Duplex as a libp2p connection. */
export class Connection extends AbstractMessageStream {
  constructor (duplex, direction) {
    super({ log: defaultLogger().forComponent('bridge'), direction })
    this.duplex = duplex
    duplex.on('data', data => this.onData(data))
    duplex.on('drain', () => this.safeDispatchEvent('drain'))
    duplex.on('error', error => this.abort(error))
    duplex.on('close', () => this.onTransportClosed())
    duplex.on('end', () => this.onTransportClosed())
  }

  sendData (data) {
    return { sentBytes: data.byteLength, canSendMore: this.duplex.write(data.subarray().slice()) }
  }

  sendReset () {
    this.duplex.destroy()
  }

  sendPause () {
    this.duplex.pause()
  }

  sendResume () {
    this.duplex.resume()
  }

  async close () {
    this.duplex.end()
  }
}

/** Ask for a link, as a device. */
export async function dial (address, token, carrier) {
  const headers = { Authorization: `Bearer ${token}` }
  if (carrier === 'websocket') {
    const websocket = new WebSocket(`ws://${address}${PATH}`, SUBPROTOCOL, {
      headers,
      perMessageDeflate: false
    })
    const duplex = createWebSocketStream(websocket)
    await new Promise((resolve, reject) => websocket.on('open', resolve).on('error', reject))
    return new Connection(duplex, 'outbound')
  }
  const asked = request(`http://${address}${PATH}`, {
    headers: { ...headers, Connection: 'Upgrade', Upgrade: RAW_UPGRADE }
  })
  const socket = await new Promise((resolve, reject) => {
    asked.on('upgrade', (response, socket, early) => resolve(withEarly(socket, early)))
    asked.on('response', response => reject(new Error(`refused: ${response.statusCode}`)))
    asked.on('error', reject)
    asked.end()
  })
  return new Connection(socket, 'outbound')
}

/** Wait for a link and accept it, as a server of version 1 would. */
export function answer (carrier, listening) {
  const server = createServer()
  const made = new Promise(resolve => {
    server.on('upgrade', (request, socket, early) => {
      if (carrier === 'websocket') {
        const websockets = new WebSocketServer({
          noServer: true,
          handleProtocols: () => SUBPROTOCOL
        })
        websockets.on('headers', lines => lines.push(...AGREED))
        websockets.handleUpgrade(request, socket, early, websocket =>
          resolve(new Connection(createWebSocketStream(websocket), 'inbound')))
        return
      }
      const head = ['HTTP/1.1 101 Switching Protocols', 'Connection: Upgrade',
        `Upgrade: ${RAW_UPGRADE}`, ...AGREED, '', '']
      socket.write(head.join('\r\n'))
      resolve(new Connection(withEarly(socket, early), 'inbound'))
    })
  })
  server.listen(0, '127.0.0.1', () => listening(server.address().port))
  return made
}

function withEarly (socket, early) {
  socket.setNoDelay(true)
  if (early.length > 0) socket.unshift(early)
  return socket
}
