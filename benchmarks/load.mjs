// loadtest: a query of its own in every request, so many a second; latencies by status as JSON.
// node load.mjs FOLDER_OF_LOADTEST URL SECONDS RATE
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const [folder, url, seconds, rate] = process.argv.slice(2)
const { loadTest } = await import(pathToFileURL(createRequire(`${folder}/`).resolve('loadtest')))
const milliseconds = {}
const found = await loadTest({
  url,
  method: 'POST',
  contentType: 'application/json',
  body: '{"texts": ["how do I read a file line by line [INDEX]"], "kind": "query"}',
  indexParam: 'INDEX',
  maxSeconds: Number(seconds),
  agentKeepAlive: true,
  quiet: true,
  requestsPerSecond: Number(rate),
  statusCallback: (error, result) => (milliseconds[result?.statusCode ?? 'lost'] ??= []).push(result?.requestElapsed ?? 0),
})
process.stdout.write(JSON.stringify({ seconds: found.elapsedSeconds, milliseconds }), () => process.exit(0))
