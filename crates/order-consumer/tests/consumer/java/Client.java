// Another client: does what the lines of its standard input say, in order, and prints "done".
//
//   producer <codec> <transactional id or ->    a new producer, used from here on
//   begin | commit | abort                      of its transactions
//   send <topic> <partition> <key> <value> <name=value>...    in base64, - for null
//   partitions <topic> <count>                  gives a topic more partitions

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Client {
    public static void main(String[] arguments) throws Exception {
        String brokers = arguments[0];
        KafkaProducer<byte[], byte[]> producer = null;
        var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null; ) {
            String[] words = line.split(" ");
            switch (words[0]) {
                case "producer" -> {
                    if (producer != null) {
                        producer.close();
                    }
                    producer = producer(brokers, words[1], words[2]);
                }
                case "begin" -> producer.beginTransaction();
                case "commit" -> producer.commitTransaction();
                case "abort" -> {
                    producer.flush();
                    producer.abortTransaction();
                }
                case "send" -> {
                    var record = new ProducerRecord<byte[], byte[]>(
                        words[1], Integer.valueOf(words[2]), bytes(words[3]), bytes(words[4]));
                    for (int i = 5; i < words.length; i++) {
                        String[] header = words[i].split("=", 2);
                        record.headers().add(new RecordHeader(header[0], bytes(header[1])));
                    }
                    producer.send(record);
                }
                case "partitions" -> {
                    try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
                        var more = NewPartitions.increaseTo(Integer.parseInt(words[2]));
                        admin.createPartitions(Map.of(words[1], more)).all().get();
                    }
                }
                default -> throw new IllegalArgumentException(line);
            }
        }
        if (producer != null) {
            producer.close();
        }
        System.out.println("done");
    }

    static KafkaProducer<byte[], byte[]> producer(String brokers, String codec, String id) {
        var settings = new Properties();
        settings.put("bootstrap.servers", brokers);
        settings.put("compression.type", codec);
        settings.put("linger.ms", "50");
        if (!id.equals("-")) {
            settings.put("transactional.id", id);
            // Whoever leaves one open does so on purpose.
            settings.put("transaction.timeout.ms", "600000");
        }
        var bytes = new ByteArraySerializer();
        var producer = new KafkaProducer<byte[], byte[]>(settings, bytes, bytes);
        if (!id.equals("-")) {
            producer.initTransactions();
        }
        return producer;
    }

    static byte[] bytes(String word) {
        return word.equals("-") ? null : Base64.getDecoder().decode(word);
    }
}
